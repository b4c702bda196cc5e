"""How long a long prompt waits for its first token: computed, from NVMe and from host memory. Figures, not a pass
mark for speed: machines differ. Writes .kvtier/bench/vllm-BLOCK.md, for blocks of 128 tokens
(what vLLM takes on CPUs) and of 32; -m full."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
from engines import REPOSITORY, Engine, Words
from sameness import longest_hits

LENGTHS = tuple(int(length) for length in os.environ.get("KVTIER_TTFT_TOKENS", "512,2048,4096").split(","))
REPEATS = int(os.environ.get("KVTIER_TTFT_REPEATS", "5"))
MODEL = "smollm2-135m"


@pytest.mark.full
@pytest.mark.parametrize("block", [128, 32])
def test_time_to_first_token(start: Callable[..., Any], engine: Callable[..., Engine], block: int) -> None:
    daemon = start(host__huge_pages="auto", host__bytes="1GiB", nvme__bytes="4GiB", local__client_bytes_max="512MiB")
    connector = {"data_directory": str(daemon.data), "durability": "durable", "reserve_wait_ms": 100, "gate": True}
    options: dict[str, Any] = {"max_num_batched_tokens": 2048, "block_size": block, "max_model_len": max(LENGTHS) + 128}
    words = Words(MODEL)
    prompts = {length: [words.take(length) for _ in range(REPEATS)] for length in LENGTHS}

    first = engine(MODEL, connector, **options)
    stored: dict[int, list[float]] = {}
    for length, group in prompts.items():
        stored[length] = first.generate(group, 1)["seconds"]
    first.kill()
    daemon.kill()
    daemon.start()

    plain, second = engine(MODEL, **options), engine(MODEL, connector, **options)
    warm = [words.take(40)]
    plain.generate(warm, 2), second.generate(warm, 2)
    rows = []
    for length, group in prompts.items():
        seconds: dict[str, list[float]] = {"computed": [], "nvme": [], "host": [], "own": []}
        for prompt in group:
            computed = plain.generate([prompt], 1)
            nvme = second.generate([prompt], 1)
            second.ask("forget")
            host = second.generate([prompt], 1)
            own = second.generate([prompt], 1)
            for name, answer in (("computed", computed), ("nvme", nvme), ("host", host), ("own", own)):
                seconds[name] += answer["seconds"]
                assert answer["tokens"] == computed["tokens"], (name, length)
            assert nvme["cached"] == host["cached"] == longest_hits([prompt], block)
        rows.append(row(length, seconds, stored[length]))
    report = "\n".join(
        [
            f"Machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f};"
            f" {time.strftime('%Y-%m-%d')}; {MODEL}, bf16, blocks of {block} tokens, one thread;"
            f" medians of {REPEATS}, interleaved; daemon and engine were killed with -9 between storing and loading.",
            "",
            "| tokens | computed, ms | NVMe, ms | host, ms | own cache, ms | NVMe × | host × | computed and stored, ms |",
            "|--:|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
        ]
    )
    print(report)
    folder = REPOSITORY / ".kvtier" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"vllm-{block}.md").write_text(report)


def row(length: int, seconds: dict[str, list[float]], stored: list[float]) -> str:
    middle = {name: statistics.median(values) * 1000 for name, values in seconds.items()}
    cells = [f"{middle[name]:,.0f}" for name in ("computed", "nvme", "host", "own")]
    ratios = [f"{middle['computed'] / middle[name]:.1f}" for name in ("nvme", "host")]
    return f"| {length:,} | {' | '.join(cells + ratios)} | {statistics.median(stored) * 1000:,.0f} |"
