"""What it costs that every block is stored and none is ever found. Figures, not pass marks for speed: machines differ.
Writes .kvtier/bench/vllm_throughput.md; -m full.

A round is four prompts of 512 tokens at a time and 16 tokens of answer each, until nothing is under way any more. Every
round goes to every engine, in turning order. Two processes of plain vLLM take part: how far they are apart is what two
processes of the same differ by, and every engine is compared with the mean of both in the same round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beside import MODEL, NAMES, REPEATS, heading, running, write
from engines import Engine, Words, in_turn

PLAIN = ("plain", "again")
PROMPTS, TOKENS = 4, 512
#: Bytes of a token of the model.
TOKEN_BYTES = 23_040


@pytest.mark.full
def test_throughput_of_storing_everything(
    start: Callable[..., Any], engine: Callable[..., Engine], tmp_path: Path
) -> None:
    daemon = start(host__bytes="2GiB", nvme__bytes="4GiB", local__client_bytes_max="512MiB")
    with running(engine, daemon, tmp_path, PLAIN) as engines:
        words = Words(MODEL)
        rounds: dict[str, list[Round]] = {system: [] for system in engines}
        for number in range(REPEATS + 1):
            prompts = [words.take(TOKENS) for _ in range(PROMPTS)]
            for system in in_turn(list(engines), number):
                round_ = one_round(engines[system], prompts)
                # The first round warms up.
                if number:
                    rounds[system].append(round_)
        hooks = engines["tier"].ask("tier") if "tier" in engines else {}
        doors = {"tier": "tier", "connector": "counts"}
        stored = {door: engines[door].ask(what) for door, what in doors.items() if door in engines}
    for door, counts in stored.items():
        assert counts["stored_bytes"] >= (REPEATS + 1) * PROMPTS * TOKENS * TOKEN_BYTES, (door, counts)
    figures = ", ".join(f"{name} {hooks[name]:.0f} µs" for name in ("median", "p99", "longest") if name in hooks)
    last = f"A scheduler step in the tier: {figures}, {hooks.get('steps')} steps."
    report = "\n".join([*heading(), *table(rounds), "", last, ""])
    print(report)
    write("vllm_throughput.md", report)


class Round:
    """What one round took, in seconds."""

    def __init__(self, whole: float, after: float, processor: float) -> None:
        self.whole = whole
        #: Of it after the last token.
        self.after = after
        #: Of the engine's process, all threads together.
        self.processor = processor


def one_round(engine: Engine, prompts: list[list[int]]) -> Round:
    began = time.monotonic()
    answer = engine.generate(prompts, 16, together=True)
    answered = time.monotonic()
    engine.ask("settle")
    ended = time.monotonic()
    assert answer["cached"] == [0] * len(prompts)
    return Round(ended - began, ended - answered, sum(answer["processor"]))


def table(rounds: dict[str, list[Round]]) -> list[str]:
    lines = [
        "| | seconds a round, median | least to most | after the last token | processor | of plain vLLM's throughput | quarters |",
        "|--|--:|--:|--:|--:|--:|--:|",
    ]
    plain = [statistics.mean(round_.whole for round_ in both) for both in zip(*(rounds[name] for name in PLAIN), strict=True)]
    for system, own in rounds.items():
        whole = [round_.whole for round_ in own]
        ratios = [reference / seconds for reference, seconds in zip(plain, whole, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        after = statistics.median(round_.after for round_ in own)
        processor = statistics.median(round_.processor for round_ in own)
        lines.append(
            f"| {NAMES[system]} | {statistics.median(whole):.2f} | {min(whole):.2f} to {max(whole):.2f} | {after:.3f}"
            f" | {processor:.2f} | {middle:.3f} | {low:.3f} to {high:.3f} |"
        )
    return lines
