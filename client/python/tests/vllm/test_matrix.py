"""The full matrix: 200 natural-text prompts, with conversations and shared system prompts. -m full."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import kvtier
import pytest
from engines import Engine, Words
from sameness import compare, longest_hits, stored_digests, turned

MODEL = "smollm2-135m"
UNIT = 32
SEED = 20_261


def prompts_of(words: Words) -> list[list[int]]:
    """160 prompts on their own, of 16 to 900 tokens, and 48 on four shared system prompts."""
    chance = random.Random(SEED)
    alone = [words.take(int(16 * 2 ** chance.uniform(0, 5.8))) for _ in range(160)]
    systems = [words.take(length) for length in (64, 150, 333, 480)]
    shared = [system + words.take(chance.randint(5, 120)) for system in systems for _ in range(12)]
    return alone + shared


ROOMY = {"host__bytes": "3GiB", "nvme__bytes": "6GiB", "local__client_bytes_max": "512MiB"}


@pytest.mark.full
def test_two_hundred_prompts_cold_warm_in_batches_and_after_kill_9(
    start: Callable[..., Any], engine: Callable[..., Engine]
) -> None:
    daemon = start(**ROOMY)
    connector = {"data_directory": str(daemon.data), "durability": "durable"}
    plain, first = engine(MODEL), engine(MODEL, connector)
    prompts = prompts_of(Words(MODEL))
    expected = plain.generate(prompts, 8, logprobs=2)
    flips = compare(expected, first.generate(prompts, 8), "cold")

    # Whatever plain vLLM still has of them is in kvtier with the same bytes.
    computed = plain.ask("blocks")["blocks"]
    assert len(computed) > 1000
    assert stored_digests(daemon, list(computed)) == computed

    first.ask("forget")
    warm = first.generate(prompts, 8)
    flips += compare(expected, warm, "warm from host memory")
    assert warm["cached"] == longest_hits(prompts, UNIT)
    first.ask("forget")
    batched = first.generate(prompts, 8, together=True)
    plain.ask("forget")
    alone = turned(expected, plain.generate(prompts, 8, together=True))
    print(f"plain vLLM in batches against itself one by one: {len(alone)} answers turn, margins {sorted(alone)}")
    flips += compare(expected, batched, "warm, in batches", batched=True)
    first.kill()
    daemon.kill()
    daemon.start()
    second = engine(MODEL, connector)
    again = second.generate(prompts, 8)
    flips += compare(expected, again, "warm from NVMe")
    assert again["cached"] == longest_hits(prompts, UNIT)
    assert second.ask("counts").get("loads_cut", 0) == 0
    print(f"{len(prompts)} prompts, {flips} explained flips in 4 passes")
    second.close()


@pytest.mark.full
def test_sixty_turns_of_conversations(start: Callable[..., Any], engine: Callable[..., Engine]) -> None:
    daemon = start(**ROOMY)
    connector = {"data_directory": str(daemon.data), "durability": "durable"}
    plain, first = engine(MODEL), engine(MODEL, connector)
    words = Words(MODEL)
    history = prompts_of(words)[:20]
    turns, expected, flips = [], [], 0
    for _ in range(3):
        history = [past + words.take(30) for past in history]
        answered = plain.generate(history, 8, logprobs=2)
        flips += compare(answered, first.generate(history, 8), "conversation")
        turns.append(history)
        expected.append(answered)
        history = [past + answer for past, answer in zip(history, answered["tokens"], strict=True)]
    first.kill()
    daemon.kill()
    daemon.start()
    second = engine(MODEL, connector)
    for history, answered in zip(turns, expected, strict=True):
        flips += compare(answered, second.generate(history, 8), "conversation, warm from NVMe")
    print(f"{sum(map(len, turns))} turns, {flips} explained flips in 2 passes")


@pytest.mark.full
def test_a_hundred_prompts_with_salts_without_a_cache_and_with_holes(
    start: Callable[..., Any], engine: Callable[..., Engine]
) -> None:
    daemon = start(**ROOMY)
    connector = {"data_directory": str(daemon.data)}
    plain, kept = engine(MODEL), engine(MODEL, connector, enable_prefix_caching=False)
    prompts = prompts_of(Words(MODEL))[::2]
    expected = plain.generate(prompts, 4, logprobs=2)
    flips = compare(expected, kept.generate(prompts, 4), "cold, without the engine's own cache")
    warm = kept.generate(prompts, 4)
    flips += compare(expected, warm, "warm, without the engine's own cache")
    assert warm["cached"] == longest_hits(prompts, UNIT)
    salted = kept.generate(prompts[:40], 4, salt="somebody else")
    flips += compare(first_of(expected, 40), salted, "salted")
    assert max(salted["cached"]) == 0, "these share nothing with each other, and nothing with another salt"

    with kvtier.Client(daemon.unix) as client:
        (space,) = [one.space for one in client.spaces()]
        keys = sorted(bytes.fromhex(key) for key in plain.ask("blocks")["blocks"])
        gone = random.Random(SEED).sample(keys, len(keys) // 5)
        for at in range(0, len(gone), 100):
            client.delete(space, gone[at : at + 100])
    partly = kept.generate(prompts, 4)
    flips += compare(expected, partly, "with holes")
    assert sum(partly["cached"]) < sum(warm["cached"])
    again = kept.generate(prompts, 4)
    flips += compare(expected, again, "with holes that were filled")
    assert again["cached"] == longest_hits(prompts, UNIT)
    print(f"{len(prompts)} prompts, {flips} explained flips in 5 passes")


@pytest.mark.full
def test_natural_prompts_that_are_preempted(start: Callable[..., Any], engine: Callable[..., Engine]) -> None:
    daemon = start(**ROOMY)
    connector = {"data_directory": str(daemon.data)}
    plain = engine(MODEL)
    crowded = engine(MODEL, connector, max_model_len=1024, num_gpu_blocks_override=100)
    words = Words(MODEL)
    prompts = [words.take(400 + 10 * index) for index in range(24)]
    expected = plain.generate(prompts, 48, logprobs=2)
    flips = compare(expected, crowded.generate(prompts, 48, together=True), "crowded", batched=True)
    crowded.ask("forget")
    flips += compare(expected, crowded.generate(prompts, 48, together=True), "crowded and warm", batched=True)
    counts = crowded.ask("counts")
    assert counts["preemptions"] > 0 and counts["loads"] > 0
    print(f"{len(prompts)} prompts, {counts['preemptions']} preemptions, {flips} explained flips in 2 passes")


def first_of(answer: dict[str, Any], count: int) -> dict[str, Any]:
    return {name: values[:count] for name, values in answer.items()}


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
