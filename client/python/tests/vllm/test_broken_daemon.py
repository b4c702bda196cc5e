"""Nothing breaks when kvtier breaks: requests finish with the same tokens, computed instead of loaded."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kvtier
import pytest
from engines import Engine, Words
from sameness import compare, longest_hits

UNIT = 32
#: How long anything may take to come right again, in seconds.
WAIT = 60.0
#: Moments at which something happens to the daemon after a batch was begun, in seconds. They fall before, into and
#: after lookups, loads and stores; which, is different every time, and none may matter.
MOMENTS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08)
Start = Callable[..., Any]
StartEngine = Callable[..., Engine]


def start_roomy(start: Start, **settings: str) -> Any:
    return start(**{"host__bytes": "128MiB", "nvme__bytes": "512MiB", "local__client_bytes_max": "64MiB"} | settings)


def reconnected(engine: Engine) -> None:
    wait_for(lambda: engine.ask("counts")["connected"], "the engine to be connected again")


def wait_for(true: Callable[[], Any], what: str, longest: float = WAIT) -> None:
    deadline = time.monotonic() + longest
    while not true():
        assert time.monotonic() < deadline, f"waited {longest} s for {what}"
        # The engine's own pauses are longer than this one.
        time.sleep(0.02)


def nothing_is_held(daemon: Any) -> None:
    """Leases, reservations and slots of clients that are gone come back."""

    def held() -> dict[str, int]:
        with kvtier.Client(daemon.unix) as client:
            status = client.status()
        local = status["local"]
        assert local is not None
        return {
            "leases": status["leases"],
            "pending puts": status["pending_puts"],
            "reservations": local["reservations"],
            "quarantined": local["quarantined_slots"],
        }

    wait_for(lambda: not any(held().values()), "the daemon to hold nothing")


def test_a_daemon_that_comes_later_is_used_by_itself(start: Start, engine: StartEngine, tmp_path: Path) -> None:
    later = tmp_path / "node0" / "data"
    plain, kept = engine("tiny"), engine("tiny", {"data_directory": str(later), "retry_ms_max": 100})
    words = Words("tiny")
    prompts = [words.take(length) for length in (100, 400)]
    expected = plain.generate(prompts, logprobs=2)
    compare(expected, kept.generate(prompts), "without a daemon")

    daemon = start_roomy(start)
    assert daemon.data == later
    reconnected(kept)
    compare(expected, kept.generate(prompts), "with the daemon, from the engine's own cache")
    kept.ask("forget")
    warm = kept.generate(prompts)
    compare(expected, warm, "from the daemon")
    assert warm["cached"] == longest_hits(prompts, UNIT)
    kept.close()
    nothing_is_held(daemon)


@pytest.mark.parametrize("what", ["killed", "stopped"])
def test_a_daemon_is_lost_at_any_moment(start: Start, engine: StartEngine, what: str) -> None:
    daemon = start_roomy(start)
    connector = {
        "data_directory": str(daemon.data),
        "durability": "durable",
        "retry_ms_max": 100,
        "load_timeout_ms": 1000,
        # A daemon that has just been started on a busy machine may take long for the first answer.
        "lookup_timeout_ms": 1000,
    }
    plain, kept = engine("tiny"), engine("tiny", connector)
    words = Words("tiny")
    stored = [words.take(length) for length in (700, 900, 1100)]
    compare(plain.generate(stored, logprobs=2), kept.generate(stored), "cold")

    slowest = 0.0
    for moment in MOMENTS:
        # Some of it is loaded, some computed and stored.
        prompts = [*stored, words.take(300), words.take(600)]
        expected = plain.generate(prompts, logprobs=2)
        kept.ask("forget")
        kept.begin(prompts, together=True)
        time.sleep(moment)
        daemon.kill() if what == "killed" else daemon.pause()
        answer = kept.finish()
        compare(expected, answer, f"{what} after {moment} s")
        slowest = max(slowest, answer["seconds"][0])
        daemon.start() if what == "killed" else daemon.resume()
        reconnected(kept)
    hooks = kept.ask("hooks")
    print(f"{what}: the slowest batch took {slowest:.2f} s; the scheduler spent in us a step: {hooks}")
    # Loads are given up after load_timeout_ms; the rest is computing, and other people's use of this machine.
    assert slowest < 20

    kept.ask("forget")
    warm = kept.generate(stored)
    assert warm["cached"] == longest_hits(stored, UNIT), f"then it is used as before: {kept.ask('counts')}"
    nothing_is_held(daemon)
    # An engine that is killed in the middle of things leaves nothing behind either.
    kept.ask("forget")
    kept.begin(stored, together=True)
    kept.kill()
    nothing_is_held(daemon)


def test_a_block_that_rots_is_computed_again(start: Start, engine: StartEngine) -> None:
    daemon = start_roomy(start, nvme__bytes="130MiB")
    connector = {"data_directory": str(daemon.data), "durability": "durable", "retry_ms_max": 100}
    plain, kept = engine("tiny"), engine("tiny", connector)
    prompts = [Words("tiny").take(900)]
    expected = plain.generate(prompts, logprobs=2)
    compare(expected, kept.generate(prompts), "cold")
    with kvtier.Client(daemon.unix) as client:
        (space,) = [one.space for one in client.spaces()]
    with kvtier.LocalClient(daemon.local, tenant="default", role="reader") as local:
        # The engine's blocks are in the order in which they were filled.
        key = bytes.fromhex(list(plain.ask("blocks")["blocks"])[10])
        with local.acquire(space, [key]) as found:
            content = bytes(found[0])
    daemon.kill()
    rot(daemon.data / "nvme-0.kv", content)
    daemon.start()
    reconnected(kept)

    kept.ask("forget")
    compare(expected, kept.generate(prompts), "with a rotten block")
    counts = kept.ask("counts")
    assert (counts["loads_incomplete"], counts["loads_cut"]) == (1, 1), counts
    assert 0 < counts["load_tokens_lost"] < counts["load_tokens"], "what came before it counts"
    # It was neither kept nor offered again; what was computed instead is.
    kept.ask("forget")
    compare(expected, kept.generate(prompts), "after it was computed again")
    assert kept.ask("counts")["loads_incomplete"] == 1
    kept.ask("forget")
    assert kept.generate(prompts)["cached"] == longest_hits(prompts, UNIT)


def rot(file: Path, content: bytes) -> None:
    """Turns one bit in the middle of a block on the disk."""
    at = file.read_bytes().find(content) + len(content) // 2
    assert at >= len(content) // 2
    with file.open("r+b") as disk:
        disk.seek(at)
        byte = disk.read(1)[0]
        disk.seek(at)
        disk.write(bytes([byte ^ 1]))


def test_a_daemon_without_room_keeps_what_fits(start: Start, engine: StartEngine) -> None:
    daemon = start_roomy(start, local__client_bytes_max="1MiB")
    # A step of 1,024 tokens fills 32 blocks, twice what the daemon gives one engine at a time.
    chunks = {"max_num_batched_tokens": 1024}
    plain, kept = engine("tiny", **chunks), engine("tiny", {"data_directory": str(daemon.data)}, **chunks)
    words = Words("tiny")
    prompts = [words.take(length) for length in (1500, 1500)]
    expected = plain.generate(prompts, logprobs=2)
    compare(expected, kept.generate(prompts), "cold")
    kept.ask("forget")
    answer = kept.generate(prompts)
    compare(expected, answer, "warm as far as it goes")
    counts = kept.ask("counts")
    assert counts["stores_declined"] > 0
    assert counts.get("loads_failed", 0) + counts.get("loads_incomplete", 0) == 0
    nothing_is_held(daemon)
