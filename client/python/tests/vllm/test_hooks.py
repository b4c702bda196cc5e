"""What a scheduler step spends in the connector: figures, not a pass mark, for machines differ. Writes
.kvtier/bench/vllm-hooks.md; -m full."""

from __future__ import annotations

import os
import threading
import timeit
from collections.abc import Callable
from typing import Any

import pytest
from engine_main import HOOKS
from engines import REPOSITORY, Engine, Words
from sameness import compare

ROUNDS = int(os.environ.get("KVTIER_HOOK_ROUNDS", "12"))


@pytest.mark.full
def test_what_a_step_of_the_scheduler_spends_in_the_connector(
    start: Callable[..., Any], engine: Callable[..., Engine]
) -> None:
    daemon = start(host__huge_pages="auto", host__bytes="256MiB", nvme__bytes="512MiB", local__client_bytes_max="64MiB")
    connector = {"data_directory": str(daemon.data), "retry_ms_max": 100, "load_timeout_ms": 1000}
    plain, kept = engine("tiny"), engine("tiny", connector)
    words = Words("tiny")
    stored = [words.take(length) for length in (700, 900, 1100)]
    compare(plain.generate(stored, logprobs=2), kept.generate(stored), "cold")
    kept.ask("hooks")

    def rounds(broken: Callable[[], None], mended: Callable[[], None]) -> dict[str, Any]:
        for _ in range(ROUNDS):
            kept.ask("forget")
            again = threading.Timer(0.2, mended)
            kept.begin([*stored, words.take(300), words.take(600)], 24, together=True)
            broken()
            again.start()
            kept.finish()
            again.join()
        spent: dict[str, Any] = kept.ask("hooks")
        return spent

    found = {
        "nothing is wrong": rounds(lambda: None, lambda: None),
        "stopped for 0.2 s in every batch": rounds(daemon.pause, daemon.resume),
        "killed in every batch": rounds(daemon.kill, daemon.start),
    }
    counts = kept.ask("counts")
    lines = ["| the daemon | steps | median, us | p99, us | longest, us | processor p99, us | longest hook |", "|--|--:|--:|--:|--:|--:|--|"]
    for what, spent in found.items():
        by_hook = {name: one["longest"] for name, one in spent.items() if name in HOOKS[1:]}
        worst = max(by_hook, key=lambda name: by_hook[name])
        lines.append(
            f"| {what} | {spent['steps']} | {spent['median']:.0f} | {spent['p99']:.0f} | {spent['longest']:.0f}"
            f" | {spent['processor']['p99']:.0f} | {worst} {by_hook[worst]:.0f} |"
        )
        print(what, spent)
    print(counts)
    # A machine that others share is at times half as fast: this tells how fast it was.
    loop = min(timeit.repeat("for index in range(100_000): pass", number=1, repeat=20)) * 1e3
    report = "\n".join([f"Load {os.getloadavg()[0]:.1f}; 100,000 turns of an empty loop take {loop:.2f} ms", "", *lines, ""])
    print(report)
    folder = REPOSITORY / ".kvtier" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vllm-hooks.md").write_text(report)
    assert counts.get("loads", 0) > 0 and all(spent["steps"] > 100 for spent in found.values())
