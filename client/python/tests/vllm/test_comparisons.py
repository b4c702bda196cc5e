"""Time to the first token of kvtier's two doors beside what else keeps vLLM's blocks, on the same prompts. Figures, not
pass marks for speed: machines differ. Writes .kvtier/bench/vllm_comparisons.md; -m full."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beside import MODEL, NAMES, REPEATS, heading, running, write
from doors import wait_for
from engines import Engine, Words, in_turn

LENGTHS = tuple(int(length) for length in os.environ.get("KVTIER_COMPARE_TOKENS", "512,2048").split(","))


@pytest.mark.full
def test_time_to_first_token_beside_others(
    start: Callable[..., Any], engine: Callable[..., Engine], tmp_path: Path
) -> None:
    daemon = start(host__bytes="2GiB", nvme__bytes="4GiB", local__client_bytes_max="512MiB")
    with running(engine, daemon, tmp_path) as engines:
        others = [system for system in engines if system != "plain"]
        words = Words(MODEL)
        warm = [words.take(40)]
        for one in engines.values():
            one.generate(warm, 2)
        prompts = {length: [words.take(length) for _ in range(REPEATS)] for length in LENGTHS}
        for system in others:
            for group in prompts.values():
                engines[system].generate(group, 1)
            engines[system].ask("settle")
        # Blocks of kvtier come from NVMe the first time, and from host memory the second.
        daemon.kill()
        daemon.start()
        for system, what in (("connector", "counts"), ("tier", "tier")):
            if system in others:
                # The first request after a restart may find the daemon slow to answer, and is computed then.
                engines[system].generate([words.take(300)], 1)
                wait_for(lambda system=system, what=what: engines[system].ask(what)["connected"], system)
        rows = []
        for length, group in prompts.items():
            rows.append(measure(length, group, engines))
            # A run that is broken off has said something.
            print("\n".join(table(rows)), flush=True)
    report = "\n".join([*heading(), *table(rows), ""])
    print(report)
    write("vllm_comparisons.md", report)


def measure(length: int, group: list[list[int]], engines: dict[str, Engine]) -> tuple[int, dict[str, float]]:
    """Medians in milliseconds. Every prompt goes to every system before the next one. Another first token than plain
    vLLM's is a failure of kvtier; of others it is told."""
    seconds: dict[str, list[float]] = {}
    for number, prompt in enumerate(group):
        expected = engines["plain"].generate([prompt], 1)
        seconds.setdefault("plain", []).append(expected["seconds"][0])
        for system in in_turn([system for system in engines if system != "plain"], number):
            for place in ("NVMe", "host") if system in ("connector", "tier") else ("",):
                engines[system].ask("forget_host")
                answer = engines[system].generate([prompt], 1)
                if answer["tokens"] != expected["tokens"]:
                    assert system not in ("connector", "tier"), (system, place, length)
                    print(f"{NAMES[system]}, {length} tokens: another first token than plain vLLM's", flush=True)
                assert answer["cached"][0] >= length // 2, (system, place, length, answer["cached"])
                seconds.setdefault(f"{system} {place}".strip(), []).append(answer["seconds"][0])
    return length, {system: statistics.median(values) * 1000 for system, values in seconds.items()}


def table(rows: list[tuple[int, dict[str, float]]]) -> list[str]:
    systems = list(rows[0][1])
    titles = [" ".join([NAMES[system.split()[0]], *system.split()[1:]]) for system in systems]
    lines = [f"| tokens | {', ms | '.join(titles)}, ms |", "|--:|" + "--:|" * len(systems)]
    lines += [f"| {length:,} | {' | '.join(f'{row[system]:,.0f}' for system in systems)} |" for length, row in rows]
    return lines
