"""KvtierTier in vLLM's own offloading: same tokens, same bytes. test_broken_daemon.py breaks it."""

from __future__ import annotations

from pathlib import Path

import kvtier
import pytest
from doors import TIER, UNIT, Start, StartEngine, nothing_is_held, reconnected, start_roomy
from engines import Words, kvtier_tier, offloading
from sameness import compare, longest_hits, stored_digests


def pools() -> set[Path]:
    return set(Path("/dev/shm").glob("vllm_offload_*"))


def test_cold_warm_and_after_kill_9_of_daemon_and_engine(start: Start, engine: StartEngine) -> None:
    daemon = start_roomy(start)
    pools_before = pools()
    transfer = offloading(kvtier_tier(daemon.data, durability="durable"))
    plain, first = engine("tiny"), engine("tiny", transfer=transfer)
    words = Words("tiny")
    prompts = [words.take(length) for length in (20, 33, 64, 300, 900, 1500)]
    expected = plain.generate(prompts, logprobs=2)
    cold = first.generate(prompts)
    compare(expected, cold, "cold")
    assert cold["cached"] == expected["cached"], "nothing but what the engine itself had"
    first.ask("settle")
    # What is stored is what plain vLLM computed of the prompts, byte for byte, and nothing is missing.
    computed = plain.ask("blocks")["blocks"]
    stored = stored_digests(daemon, list(computed), TIER.suffix)
    assert stored.items() <= computed.items()
    assert len(stored) == sum(longest_hits(prompts, UNIT)) // UNIT

    first.ask("forget_host")
    warm = first.generate(prompts)
    compare(expected, warm, "warm from host memory")
    assert warm["cached"] == longest_hits(prompts, UNIT)
    assert first.ask("tier").get("loads_failed", 0) == 0

    first.kill()
    daemon.kill()
    daemon.start()
    # How many blocks an engine has does not matter.
    second = engine("tiny", transfer=transfer, num_gpu_blocks_override=300)
    again = second.generate(prompts)
    compare(expected, again, "warm from NVMe")
    assert again["cached"] == longest_hits(prompts, UNIT)
    with kvtier.Client(daemon.unix) as client:
        tiers = {tier["tier"]: tier for tier in client.status()["tiers"]}
    assert tiers["nvme"]["bytes_read"] > 0
    second.close()
    assert pools() <= pools_before, "a killed engine left its pool behind"
    nothing_is_held(daemon)


@pytest.mark.full
def test_a_pool_smaller_than_a_prompt_ends_in_computing_it(start: Start, engine: StartEngine) -> None:
    daemon = start_roomy(start)
    tier = kvtier_tier(daemon.data)
    plain, large = engine("tiny"), engine("tiny", transfer=offloading(tier))
    prompts = [Words("tiny").take(1500)]
    expected = plain.generate(prompts, logprobs=2)
    compare(expected, large.generate(prompts), "cold")
    large.ask("settle")
    large.kill()
    small = engine("tiny", transfer=offloading(tier, pool_bytes=20 * 64 * 1024))
    compare(expected, small.generate(prompts), "through a pool of twenty blocks or so")
    print(small.ask("tier"))
    compare(expected, small.generate(prompts, together=True), "again")


@pytest.mark.full
def test_sliding_windows_and_chunks_of_several_blocks(start: Start, engine: StartEngine) -> None:
    daemon = start_roomy(start)
    tier = kvtier_tier(daemon.data, durability="durable")
    words = Words("windows")
    prompts = [words.take(length) for length in (60, 300, 1100)]
    plain = engine("windows")
    expected = plain.generate(prompts, logprobs=2)
    for each in (1, 2):
        transfer = offloading(tier, blocks_per_chunk=each)
        kept = engine("windows", transfer=transfer)
        compare(expected, kept.generate(prompts), "cold")
        kept.ask("forget_host")
        warm = kept.generate(prompts)
        compare(expected, warm, f"warm, {each} blocks to a chunk")
        # At least the last token is computed, and windows cost a chunk more at most.
        least = [(len(prompt) - 1) // (UNIT * each) * UNIT * each - UNIT * each for prompt in prompts]
        assert all(got >= want for got, want in zip(warm["cached"], least, strict=True)), (warm["cached"], least)
        assert warm["cached"][2] > 900
        turns = [prompt + words.take(200) for prompt in prompts]
        answered = plain.generate(turns, logprobs=2)
        kept.ask("forget_host")
        second = kept.generate(turns)
        compare(answered, second, "a second turn")
        assert second["cached"][2] > 900
        assert kept.ask("tier").get("loads_failed", 0) == 0
        kept.close()
    with kvtier.Client(daemon.unix) as client:
        assert len(client.spaces()) == 2, "chunks of other sizes are other blocks"


@pytest.mark.full
def test_other_blocks_and_other_weights_are_other_spaces(start: Start, engine: StartEngine) -> None:
    daemon = start_roomy(start)
    tier = kvtier_tier(daemon.data)
    prompts = [Words("tiny").take(600)]
    first = engine("tiny", transfer=offloading(tier))
    first.generate(prompts)
    first.ask("settle")
    first.ask("forget_host")
    assert first.generate(prompts)["cached"] == longest_hits(prompts, UNIT)
    # vLLM empties its caches when weights are replaced; what kvtier has belongs to the old ones then.
    first.ask("replace_weights")
    reconnected(first, TIER)
    assert first.generate(prompts)["cached"] == [0]
    first.ask("forget_host")
    assert first.generate(prompts)["cached"] == longest_hits(prompts, UNIT)
    first.close()
    for other in ({"block_size": 64}, {"dtype": "float32"}, {"hf_overrides": {"rms_norm_eps": 1e-3}}):
        another = engine("tiny", transfer=offloading(tier), **other)
        assert another.generate(prompts)["cached"] == [0], other
        another.close()
    same = engine("tiny", transfer=offloading(tier))
    assert same.generate(prompts)["cached"] == longest_hits(prompts, UNIT)


@pytest.mark.full
def test_two_tensor_ranks_share_rows(start: Start, engine: StartEngine) -> None:
    daemon = start_roomy(start)
    transfer = offloading(kvtier_tier(daemon.data, durability="durable"))
    two = {"tensor_parallel_size": 2}
    words = Words("tiny")
    prompts = [words.take(length) for length in (60, 300, 1100)]
    plain = engine("tiny", **two)
    expected = plain.generate(prompts, logprobs=2)
    plain.kill()
    first = engine("tiny", transfer=transfer, **two)
    compare(expected, first.generate(prompts), "cold")
    first.ask("settle")
    first.kill()
    second = engine("tiny", transfer=transfer, **two)
    warm = second.generate(prompts)
    compare(expected, warm, "warm, in a new engine")
    assert warm["cached"] == longest_hits(prompts, UNIT)


@pytest.mark.full
def test_natural_prompts_of_mixed_lengths(start: Start, engine: StartEngine) -> None:
    daemon = start(host__bytes="1GiB", nvme__bytes="4GiB", local__client_bytes_max="512MiB")
    transfer = offloading(kvtier_tier(daemon.data, durability="durable"), pool_bytes=1 << 30)
    plain, first = engine("smollm2-135m"), engine("smollm2-135m", transfer=transfer)
    words = Words("smollm2-135m")
    system = words.take(150)
    lengths = (20, 31, 32, 33, 64, 65, 120, 200, 290, 400, 511, 700)
    prompts = [words.take(length) for length in lengths] + [system + words.take(length) for length in (20, 60, 90, 130)]
    expected = plain.generate(prompts, logprobs=2)
    flips = compare(expected, first.generate(prompts), "cold")
    history = [past + answer + words.take(40) for past, answer in zip(prompts, expected["tokens"], strict=True)]
    turn = plain.generate(history, logprobs=2)
    flips += compare(turn, first.generate(history), "second turn")
    first.ask("forget_host")
    flips += compare(expected, first.generate(prompts), "warm from host memory")
    first.ask("forget_host")
    flips += compare(expected, first.generate(prompts, together=True), "warm, together", batched=True)
    first.ask("settle")
    first.kill()
    daemon.kill()
    daemon.start()
    second = engine("smollm2-135m", transfer=transfer)
    again = second.generate(prompts)
    flips += compare(expected, again, "warm from NVMe")
    assert again["cached"] == longest_hits(prompts, UNIT)
    flips += compare(turn, second.generate(history), "second turn, warm")
    print(f"{2 * len(prompts)} prompts, {flips} explained flips; in the tier a step: {second.ask('tier')}")
    second.close()
