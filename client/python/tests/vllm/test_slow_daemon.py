"""A daemon that answers, but slowly: requests are computed instead, and it is used again when it is quick again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from engines import Engine, Words
from sameness import compare, longest_hits

#: Of every so many seconds, the daemon runs so many.
PERIOD, RUNS = 0.06, 0.003
#: Probes are a minute apart at most.
WAIT = 120.0


@contextmanager
def slowed(daemon: Any) -> Iterator[None]:
    """Stops and continues it again and again."""
    over = threading.Event()

    def stutter() -> None:
        while not over.wait(RUNS):
            daemon.pause()
            over.wait(PERIOD - RUNS)
            daemon.resume()

    thread = threading.Thread(target=stutter)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_slow_daemon_is_declined_and_a_quick_one_used_again(
    start: Callable[..., Any], engine: Callable[..., Engine]
) -> None:
    daemon = start(host__bytes="256MiB", nvme__bytes="512MiB", local__client_bytes_max="64MiB")
    connector = {"data_directory": str(daemon.data), "gate": True, "lookup_timeout_ms": 2000}
    plain, kept = engine("smollm2-135m"), engine("smollm2-135m", connector)
    words = Words("smollm2-135m")
    prompts = [words.take(length) for length in (70, 100, 200, 300)]
    expected = plain.generate(prompts, 4, logprobs=2)
    compare(expected, kept.generate(prompts, 4), "cold")
    kept.ask("forget")
    warm = kept.generate(prompts, 4)
    compare(expected, warm, "warm")
    quick = kept.ask("counts")
    assert sum(warm["cached"]) > 0

    with slowed(daemon):
        for _ in range(3):
            kept.ask("forget")
            compare(expected, kept.generate(prompts, 4), "slow")
    slow = kept.ask("counts")
    declined = {name: slow.get(name, 0) - quick.get(name, 0) for name in ("gate_declined", "lookups_late", "loads")}
    print("while it was slow:", declined)
    assert declined["gate_declined"] + declined["lookups_late"] > 0, slow
    assert slow.get("lookups_failed", 0) == 0, "slow is not away"

    deadline = time.monotonic() + WAIT
    while True:
        kept.ask("forget")
        again = kept.generate(prompts[-1:], 4)
        compare({name: values[-1:] for name, values in expected.items()}, again, "quick again")
        if again["cached"] == longest_hits(prompts[-1:], 32):
            break
        assert time.monotonic() < deadline, f"still computed: {kept.ask('counts')}"
