"""The full matrix: 200 natural-text prompts, with conversations and shared system prompts. -m full."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import kvtier
import pytest
from engines import Engine, Words
from sameness import compare, longest_hits

UNIT = 32
SEED = 20_261


def prompts_of(words: Words) -> list[list[int]]:
    """160 prompts on their own, of 16 to 900 tokens, and 48 on four shared system prompts."""
    chance = random.Random(SEED)
    alone = [words.take(int(16 * 2 ** chance.uniform(0, 5.8))) for _ in range(160)]
    systems = [words.take(length) for length in (64, 150, 333, 480)]
    shared = [system + words.take(chance.randint(5, 120)) for system in systems for _ in range(12)]
    return alone + shared


@pytest.mark.full
def test_two_hundred_prompts(start: Callable[..., Any], engine: Callable[..., Engine]) -> None:
    daemon = start(host__bytes="3GiB", nvme__bytes="6GiB", local__client_bytes_max="512MiB")
    connector = {"data_directory": str(daemon.data), "durability": "durable"}
    plain, first = engine("smollm2-135m"), engine("smollm2-135m", connector)
    words = Words("smollm2-135m")
    prompts = prompts_of(words)
    expected = plain.generate(prompts, 8, logprobs=2)
    flips = compare(expected, first.generate(prompts, 8), "cold")

    # Conversations of three turns.
    turns, turn_expected = [], []
    history = prompts[:20]
    for _ in range(3):
        history = [past + words.take(30) for past in history]
        answered = plain.generate(history, 8, logprobs=2)
        flips += compare(answered, first.generate(history, 8), "conversation")
        turns.append(history)
        turn_expected.append(answered)
        history = [past + answer for past, answer in zip(history, answered["tokens"], strict=True)]

    first.ask("forget")
    warm = first.generate(prompts, 8)
    flips += compare(expected, warm, "warm from host memory")
    assert warm["cached"] == longest_hits(prompts, UNIT)
    first.ask("forget")
    flips += compare(expected, first.generate(prompts, 8, together=True), "warm, together")
    first.kill()
    daemon.kill()
    daemon.start()
    second = engine("smollm2-135m", connector)
    again = second.generate(prompts, 8)
    flips += compare(expected, again, "warm from NVMe")
    assert again["cached"] == longest_hits(prompts, UNIT)
    for history, answered in zip(turns, turn_expected, strict=True):
        flips += compare(answered, second.generate(history, 8), "conversation, warm")
    print("the scheduler spent in us a step:", second.ask("hooks"))
    print(f"{len(prompts)} prompts and {sum(map(len, turns))} turns, {flips} explained flips")
    second.close()


@pytest.mark.full
def test_two_tensor_ranks_keep_their_own_parts(start: Callable[..., Any], engine: Callable[..., Engine]) -> None:
    daemon = start(host__bytes="256MiB", nvme__bytes="512MiB", local__client_bytes_max="64MiB")
    connector = {"data_directory": str(daemon.data), "durability": "durable"}
    two = {"tensor_parallel_size": 2}
    words = Words("tiny")
    prompts = [words.take(length) for length in (60, 300, 1100)]
    plain = engine("tiny", **two)
    expected = plain.generate(prompts, logprobs=2)
    plain.kill()
    first = engine("tiny", connector, **two)
    compare(expected, first.generate(prompts), "cold")
    with kvtier.Client(daemon.unix) as client:
        (space,) = client.spaces()
    assert len(space.description.part_bytes) == 2
    # 16 tokens of each answer, but the last one was never computed.
    assert space.blocks == sum((len(prompt) + 15) // UNIT for prompt in prompts)
    first.kill()
    second = engine("tiny", connector, **two)
    warm = second.generate(prompts)
    compare(expected, warm, "warm, in a new engine")
    assert warm["cached"] == longest_hits(prompts, UNIT)
