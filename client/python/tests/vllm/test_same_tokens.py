"""Greedy answers with kvtier are those of plain vLLM, token for token, whatever way the blocks came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kvtier
from engines import Engine, Words
from sameness import compare, longest_hits, stored_digests

UNIT = 32
Start = Callable[..., Any]
StartEngine = Callable[..., Engine]


def daemon_for_engines(start: Start, **settings: str) -> Any:
    return start(host__bytes="256MiB", nvme__bytes="1GiB", local__client_bytes_max="128MiB", **settings)


def mixed(words: Words) -> list[list[int]]:
    """Prompts of mixed lengths around block boundaries, and some that share a system prompt."""
    system = words.take(150)
    lengths = (20, 31, 32, 33, 64, 65, 200, 511, 700)
    return [words.take(length) for length in lengths] + [system + words.take(length) for length in (20, 60, 90)]


def test_cold_warm_and_after_kill_9_of_daemon_and_engine(start: Start, engine: StartEngine) -> None:
    daemon = daemon_for_engines(start)
    connector = {"data_directory": str(daemon.data), "durability": "durable"}
    plain, first = engine("smollm2-135m"), engine("smollm2-135m", connector)
    prompts = mixed(Words("smollm2-135m"))

    expected = plain.generate(prompts, logprobs=2)
    cold = first.generate(prompts)
    compare(expected, cold, "cold")
    assert cold["cached"] == expected["cached"], "nothing but what the engine itself had"

    # What is stored is what plain vLLM computed, byte for byte, and nothing is missing.
    computed = plain.ask("blocks")["blocks"]
    prompt_keys = stored_digests(daemon, list(computed))
    assert prompt_keys == computed

    # A second turn: the answer is part of the prompt, so its blocks count too.
    words = Words("smollm2-135m")
    words.take(1500)
    turns = [prompt + answer + words.take(40) for prompt, answer in zip(prompts[-4:], cold["tokens"][-4:], strict=True)]
    expected_turns = plain.generate(turns, logprobs=2)
    compare(expected_turns, first.generate(turns), "second turn")

    first.ask("forget")
    warm = first.generate(prompts)
    compare(expected, warm, "warm from host memory")
    assert warm["cached"] == longest_hits(prompts, UNIT)

    first.kill()
    daemon.kill()
    daemon.start()
    second = engine("smollm2-135m", connector)
    again = second.generate(prompts + turns)
    compare({name: expected[name] + expected_turns[name] for name in ("tokens", "margins")}, again, "warm from NVMe")
    assert again["cached"][: len(prompts)] == longest_hits(prompts, UNIT)
    with kvtier.Client(daemon.unix) as client:
        tiers = {tier["tier"]: tier for tier in client.status()["tiers"]}
    assert tiers["nvme"]["bytes_read"] > 0
    assert second.ask("counts").get("loads_failed", 0) == 0
    second.close()


def test_a_prefix_whose_end_has_left_is_loaded_as_far_as_it_goes(start: Start, engine: StartEngine) -> None:
    daemon = daemon_for_engines(start)
    connector = {"data_directory": str(daemon.data)}
    plain, kept = engine("tiny"), engine("tiny", connector)
    prompts = [Words("tiny").take(900)]
    expected = plain.generate(prompts, logprobs=2)
    compare(expected, kept.generate(prompts), "cold")
    keys = list(plain.ask("blocks")["blocks"])
    with kvtier.Client(daemon.unix) as client:
        (space,) = [one.space for one in client.spaces()]
        chain = chain_of(client, space, keys)
        assert client.delete(space, chain[10:]) == len(chain) - 10

    kept.ask("forget")
    partly = kept.generate(prompts)
    compare(expected, partly, "partly")
    assert partly["cached"] == [10 * UNIT]

    # And what was computed again is stored again.
    kept.ask("forget")
    whole = kept.generate(prompts)
    compare(expected, whole, "whole again")
    assert whole["cached"] == longest_hits(prompts, UNIT)


def chain_of(client: kvtier.Client, space: bytes, keys: list[str]) -> list[bytes]:
    """Keys in the order of their chain, as the daemon's events tell it."""
    parents: dict[bytes, bytes] = {}
    names: dict[bytes, bytes] = {}
    for batch in client.events("snapshot", [space]):
        for event in batch.events:
            if event.kind == "stored" and event.key is not None and event.block is not None:
                names[event.block] = event.key
                parents[event.block] = event.parent_block or b""
        if any(event.kind == "snapshot_end" for event in batch.events):
            break
    after = {parent: block for block, parent in parents.items()}
    (block,) = [block for block, parent in parents.items() if parent not in names]
    chain = []
    while block:
        chain.append(names[block])
        block = after.get(block, b"")
    assert {key.hex() for key in chain} >= set(keys)
    return chain


def test_without_the_engines_own_cache_and_with_salts(start: Start, engine: StartEngine) -> None:
    daemon = daemon_for_engines(start)
    connector = {"data_directory": str(daemon.data)}
    plain = engine("tiny", enable_prefix_caching=False)
    kept = engine("tiny", connector, enable_prefix_caching=False)
    words = Words("tiny")
    prompts = [words.take(length) for length in (40, 333, 1200)]
    expected = plain.generate(prompts, logprobs=2)
    compare(expected, kept.generate(prompts), "cold")
    warm = kept.generate(prompts)
    compare(expected, warm, "warm")
    assert warm["cached"] == longest_hits(prompts, UNIT)
    salted = kept.generate(prompts, salt="somebody else")
    compare(expected, salted, "salted")
    assert salted["cached"] == [0, 0, 0], "another salt must not find these blocks"
    assert kept.generate(prompts, salt="somebody else")["cached"] == longest_hits(prompts, UNIT)


def test_preempted_requests_get_their_blocks_back(start: Start, engine: StartEngine) -> None:
    daemon = daemon_for_engines(start)
    connector = {"data_directory": str(daemon.data)}
    plain = engine("tiny", max_model_len=1024)
    # Room for four of these prompts, and not for their answers.
    kept = engine("tiny", connector, max_model_len=1024, num_gpu_blocks_override=84)
    words = Words("tiny")
    prompts = [words.take(600) for _ in range(6)]
    expected = plain.generate(prompts, 100, logprobs=2)
    compare(expected, kept.generate(prompts, 100, together=True), "crowded")
    kept.ask("forget")
    compare(expected, kept.generate(prompts, 100, together=True), "crowded and warm")
    counts = kept.ask("counts")
    assert counts["preemptions"] > 0
    assert counts["loads"] > 0
    assert counts.get("loads_failed", 0) == 0


def test_layers_with_sliding_windows_are_groups_of_their_own(start: Start, engine: StartEngine) -> None:
    daemon = daemon_for_engines(start)
    connector = {"data_directory": str(daemon.data)}
    plain, kept = engine("windows"), engine("windows", connector)
    words = Words("windows")
    prompts = [words.take(length) for length in (60, 300, 1100)]
    expected = plain.generate(prompts, logprobs=2)
    compare(expected, kept.generate(prompts), "cold")
    with kvtier.Client(daemon.unix) as client:
        (space,) = client.spaces()
    assert len(space.description.part_bytes) == 2
    # 16 tokens of each answer, but the last one was never computed.
    assert space.blocks == sum((len(prompt) + 15) // UNIT for prompt in prompts)
    kept.ask("forget")
    warm = kept.generate(prompts)
    compare(expected, warm, "warm")
    assert warm["cached"] == longest_hits(prompts, UNIT)
