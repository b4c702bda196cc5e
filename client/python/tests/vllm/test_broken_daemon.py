"""Nothing breaks when kvtier breaks: requests finish with the same tokens, computed instead of loaded. Of both doors."""

from __future__ import annotations

import time
from pathlib import Path

import kvtier
import pytest
from doors import CONNECTOR, TIER, UNIT, Door, Start, StartEngine, nothing_is_held, reconnected, rot, start_roomy
from engines import Words
from sameness import compare, longest_hits

#: Moments at which something happens to the daemon after a batch was begun, in seconds. They fall before, into and
#: after lookups, loads and stores; which, is different every time, and none may matter.
MOMENTS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08)

both_doors = pytest.mark.parametrize("door", [CONNECTOR, TIER], ids=lambda door: str(door.name))
#: make test has the connector only.
both_doors_in_full = pytest.mark.parametrize(
    "door", [pytest.param(CONNECTOR, id="connector"), pytest.param(TIER, id="tier", marks=pytest.mark.full)]
)


@both_doors_in_full
def test_a_daemon_that_comes_later_is_used_by_itself(
    start: Start, engine: StartEngine, tmp_path: Path, door: Door
) -> None:
    later = tmp_path / "node0" / "data"
    plain, kept = engine("tiny"), door.open(engine, later, retry_ms_max=100)
    words = Words("tiny")
    prompts = [words.take(length) for length in (100, 400)]
    expected = plain.generate(prompts, logprobs=2)
    compare(expected, kept.generate(prompts), "without a daemon")

    daemon = start_roomy(start)
    assert daemon.data == later
    reconnected(kept, door)
    if door is TIER:
        # The connector stores what is in the engine's own cache, vLLM's offloading what is computed.
        kept.ask(door.forget)
    compare(expected, kept.generate(prompts), "with the daemon")
    kept.ask(door.forget)
    warm = kept.generate(prompts)
    compare(expected, warm, "from the daemon")
    assert warm["cached"] == longest_hits(prompts, UNIT)
    kept.close()
    nothing_is_held(daemon)


@both_doors
def test_a_daemon_is_lost_at_any_moment(start: Start, engine: StartEngine, door: Door) -> None:
    daemon = start_roomy(start)
    patience = {
        "retry_ms_max": 100,
        "load_timeout_ms": 1000,
        # A daemon that has just been started on a busy machine may take long for the first answer.
        "lookup_timeout_ms": 1000,
    }
    plain, kept = engine("tiny"), door.open(engine, daemon.data, durability="durable", **patience)
    words = Words("tiny")
    stored = [words.take(length) for length in (700, 900, 1100)]
    compare(plain.generate(stored, logprobs=2), kept.generate(stored), "cold")

    slowest = 0.0
    for moment in MOMENTS:
        for lose, mend in ((daemon.kill, daemon.start), (daemon.pause, daemon.resume)):
            # Some of it is loaded, some computed and stored.
            prompts = [*stored, words.take(300), words.take(600)]
            expected = plain.generate(prompts, logprobs=2)
            kept.ask(door.forget)
            kept.begin(prompts, together=True)
            time.sleep(moment)
            lose()
            answer = kept.finish()
            compare(expected, answer, f"{lose.__name__} after {moment} s")
            slowest = max(slowest, answer["seconds"][0])
            mend()
            reconnected(kept, door)
    print(f"the slowest batch took {slowest:.2f} s; the scheduler spent in the {door.name}: {kept.ask(door.figures)}")
    # Loads are given up after load_timeout_ms; the rest is computing, and other people's use of this machine.
    assert slowest < 20

    # Whatever was lost meanwhile is stored with this.
    kept.ask(door.forget)
    kept.generate(stored)
    kept.ask(door.settle)
    kept.ask(door.forget)
    warm = kept.generate(stored)
    assert warm["cached"] == longest_hits(stored, UNIT), f"then it is used as before: {kept.ask(door.counts)}"
    nothing_is_held(daemon)
    # An engine that is killed in the middle of things leaves nothing behind either.
    kept.ask(door.forget)
    kept.begin(stored, together=True)
    kept.kill()
    nothing_is_held(daemon)


@both_doors_in_full
def test_a_block_that_rots_is_computed_again(start: Start, engine: StartEngine, door: Door) -> None:
    daemon = start_roomy(start, nvme__bytes="130MiB")
    plain, kept = engine("tiny"), door.open(engine, daemon.data, durability="durable", retry_ms_max=100)
    prompts = [Words("tiny").take(900)]
    expected = plain.generate(prompts, logprobs=2)
    compare(expected, kept.generate(prompts), "cold")
    kept.ask(door.settle)
    with kvtier.Client(daemon.unix) as client:
        (space,) = [one.space for one in client.spaces()]
    with kvtier.LocalClient(daemon.local, tenant="default", role="reader") as local:
        # The engine's blocks are in the order in which they were filled.
        key = bytes.fromhex(list(plain.ask("blocks")["blocks"])[10]) + door.suffix
        with local.acquire(space, [key]) as found:
            content = bytes(found[0])
    daemon.kill()
    rot(daemon.data / "nvme-0.kv", content)
    daemon.start()
    reconnected(kept, door)

    kept.ask(door.forget)
    compare(expected, kept.generate(prompts), "with a rotten block")
    counts = kept.ask(door.counts)
    assert counts["loads_incomplete"] == 1, counts
    if door is CONNECTOR:
        assert counts["loads_cut"] == 1, counts
        assert 0 < counts["load_tokens_lost"] < counts["load_tokens"], "what came before it counts"
    # It was neither kept nor offered again; what was computed instead is.
    kept.ask(door.settle)
    kept.ask(door.forget)
    whole = kept.generate(prompts)
    compare(expected, whole, "after it was computed again")
    assert whole["cached"] == longest_hits(prompts, UNIT)
    assert kept.ask(door.counts)["loads_incomplete"] == 1


@both_doors_in_full
def test_a_daemon_without_room_keeps_what_fits(start: Start, engine: StartEngine, door: Door) -> None:
    daemon = start_roomy(start, local__client_bytes_max="1MiB")
    # A step of 1,024 tokens fills 32 blocks, twice what the daemon gives one engine at a time.
    chunks = {"max_num_batched_tokens": 1024}
    plain, kept = engine("tiny", **chunks), door.open(engine, daemon.data, options=chunks)
    words = Words("tiny")
    prompts = [words.take(length) for length in (1500, 1500)]
    expected = plain.generate(prompts, logprobs=2)
    compare(expected, kept.generate(prompts), "cold")
    kept.ask(door.forget)
    compare(expected, kept.generate(prompts), "warm as far as it goes")
    counts = kept.ask(door.counts)
    assert counts["stores_declined"] > 0
    assert counts.get("loads_failed", 0) == 0
    if door is CONNECTOR:
        assert counts.get("loads_incomplete", 0) == 0
    kept.close()
    nothing_is_held(daemon)
