"""Two engines that offload share blocks exactly if their rows are interchangeable."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from kvtier.vllm import offload
from kvtier.vllm.geometry import Unsupported
from kvtier.vllm.settings import read_of_tier
from kvtier.vllm.space import RowShape, describe_rows
from test_space import ENGINE, OTHERS, digest
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, KVCacheTensor

# What vLLM and torch import warn of their own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

LAYERS = ["model.layers.0", "model.layers.1"]
SHAPE = RowShape(row_bytes=32768, layout="LBHNC", shape={"worker_bytes": 32768}, packings=("cpu/vec/None",))


def of_rows(engine: Any = ENGINE, **changes: Any) -> bytes:
    return describe_rows(engine, dataclasses.replace(SHAPE, **changes)).digest()


@pytest.mark.parametrize("field", OTHERS)
def test_another_value_of_any_field_is_another_space(field: str) -> None:
    assert of_rows(dataclasses.replace(ENGINE, **{field: OTHERS[field]})) != of_rows()


def test_another_row_is_another_space_and_never_one_of_the_connector() -> None:
    others = [
        of_rows(row_bytes=16384),
        of_rows(layout="BLHNC"),
        of_rows(shape={"worker_bytes": 16384}),
        of_rows(packings=("cpu/amx/None",)),
        digest(),
    ]
    assert len({of_rows(), *others}) == 1 + len(others)


def test_a_row_that_is_too_large_is_refused_with_the_remedy() -> None:
    with pytest.raises(Unsupported, match='smaller "block_size"'):
        of_rows(row_bytes=(64 << 20) + 1)


def attention(**changes: Any) -> FullAttentionSpec:
    return FullAttentionSpec(**{"block_size": 32, "num_kv_heads": 2, "head_size": 32, "dtype": torch.bfloat16} | changes)


def cache_of(blocks: int = 10, spec: Any = None, groups_at: tuple[int, ...] = ()) -> KVCacheConfig:
    """One group of two layers; or a group for each, whose memory begins at these places, in layers."""
    spec = spec or attention()
    page = spec.page_size_bytes
    groups = [KVCacheGroupSpec([layer], spec) for layer in LAYERS] if groups_at else [KVCacheGroupSpec(LAYERS, spec)]
    if groups_at:
        places = zip(LAYERS, groups_at, strict=True)
        size = 2 * page * blocks
        tensors = [KVCacheTensor(size, [layer], page * blocks, page, at * page * blocks) for layer, at in places]
    else:
        tensors = [KVCacheTensor(2 * page * blocks, LAYERS, page * blocks, page)]
    return KVCacheConfig(blocks, tensors, groups, kv_cache_layout="LBHNC")


def rows_of(cache: KVCacheConfig, blocks_per_chunk: int = 1, lora: Any = None, draft: Any = None, **parallel: Any) -> Any:
    ranks = {"world_size": 1, "pcp_size": 1, "dcp_size": 1} | parallel
    groups = [
        SimpleNamespace(group_id=number, tokens_per_block=group.kv_cache_spec.block_size)
        for number, group in enumerate(cache.kv_cache_groups)
    ]
    spec = SimpleNamespace(
        config=SimpleNamespace(
            parallel=SimpleNamespace(**ranks), groups=groups, canonical_layout=False, kv_cache_layout="LBHNC"
        ),
        blocks_per_chunk=blocks_per_chunk,
        replicated_layout=False,
        cpu_page_size_per_worker=2 * cache.kv_cache_groups[0].kv_cache_spec.page_size_bytes * blocks_per_chunk,
    )
    engine: Any = SimpleNamespace(
        lora_config=lora,
        speculative_config=draft,
        attention_config=SimpleNamespace(backend=None, backend_per_kind={}),
        model_config=SimpleNamespace(dtype=torch.bfloat16),
        cache_config=SimpleNamespace(cache_dtype="auto"),
    )
    return offload.measure_rows(spec, engine, cache)  # type: ignore[arg-type]


def test_how_many_blocks_an_engine_has_does_not_matter_and_what_is_in_them_does() -> None:
    base = describe_rows(ENGINE, rows_of(cache_of())).digest()
    assert describe_rows(ENGINE, rows_of(cache_of(blocks=77))).digest() == base
    assert rows_of(cache_of(blocks=77, groups_at=(0, 1))) == rows_of(cache_of(groups_at=(0, 1)))
    others = [
        rows_of(cache_of(spec=attention(block_size=64))),
        rows_of(cache_of(spec=attention(num_kv_heads=1, head_size=64))),
        rows_of(cache_of(spec=attention(dtype=torch.float16))),
        rows_of(cache_of(), blocks_per_chunk=2),
        rows_of(cache_of(), world_size=2),
        rows_of(cache_of(), dcp_size=2),
        # Two groups that share their memory, and two that do not.
        rows_of(cache_of(groups_at=(0, 0))),
        rows_of(cache_of(groups_at=(0, 1))),
    ]
    digests = {describe_rows(ENGINE, rows).digest() for rows in others}
    assert len(digests | {base}) == 1 + len(others)


def test_what_a_tier_cannot_tell_apart_is_refused() -> None:
    with pytest.raises(Unsupported, match="KvtierConnector with LoRA"):
        rows_of(cache_of(), lora=object())
    with pytest.raises(Unsupported, match="drafting"):
        rows_of(cache_of(), draft=object())


def test_outside_of_vllms_connector_there_is_no_configuration() -> None:
    with pytest.raises(Unsupported, match="out of reach"):
        offload.find_configuration()


def test_settings_that_mean_nothing_to_a_tier_are_refused() -> None:
    assert read_of_tier({"data_directory": "/d", "load_threads": 3}).load_threads == 3
    with pytest.raises(ValueError, match="lookup_wait_us, root_dir: no such settings of KvtierTier"):
        read_of_tier({"data_directory": "/d", "lookup_wait_us": 1, "root_dir": "/"})


@pytest.mark.parametrize("each", [1, 3])
def test_the_worker_for_cpus_puts_each_block_where_vllm_expects_it(each: int) -> None:
    from kvtier.vllm.cpu_spec import CopyingWorker
    from vllm.v1.kv_offload.base import CanonicalKVCacheRef, CanonicalKVCaches, CanonicalKVCacheTensor, GPULoadStoreSpec
    from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec

    page, blocks, chunks = 64, 20, 8
    tensors = [torch.randint(-128, 127, (blocks, page), dtype=torch.int8) for _ in range(3)]
    memory = torch.zeros((chunks, 4 * page * each), dtype=torch.int8)

    class Region:
        mmap_path, at = "/nowhere", 0

        def create_next_worker_view(self, size: int) -> torch.Tensor:
            self.at += size
            return memory[:, self.at - size : self.at]

        def cleanup(self) -> None:
            pass

    # Two groups: one in the first two tensors, one in the last, of whose pages 48 bytes count.
    caches = CanonicalKVCaches(
        [CanonicalKVCacheTensor(tensor, page) for tensor in tensors],
        [[CanonicalKVCacheRef(0, page), CanonicalKVCacheRef(1, page)], [CanonicalKVCacheRef(2, 48)]],
    )
    worker = CopyingWorker(caches, each, Region())  # type: ignore[arg-type]
    # The first group begins in the middle of a chunk, if chunks have a middle.
    first = [7, 3, 9, 4]
    second = [1, 12, 5]
    skipped = 1 % each
    count = -(-(len(first) + skipped) // each)
    places = list(range(count)) + [6, 7, 5][: -(-len(second) // each)]
    before = [tensor.clone() for tensor in tensors]
    stored = GPULoadStoreSpec(first + second, [len(first), len(second)], [1, 0])
    assert worker.submit_store(1, stored, CPULoadStoreSpec(places))
    for index, block in enumerate(first):
        row, at = places[(index + skipped) // each], (index + skipped) % each
        for tensor in (0, 1):
            begin = (tensor * each + at) * page
            assert (memory[row, begin : begin + page] == before[tensor][block]).all()
    for tensor in tensors:
        tensor.zero_()
    assert worker.submit_load(2, CPULoadStoreSpec(places), stored)
    for tensor, group in ((0, first), (1, first), (2, second)):
        size = 48 if tensor == 2 else page
        for block in range(blocks):
            wanted = before[tensor][block] if block in group else torch.zeros(page, dtype=torch.int8)
            assert np.array_equal(tensors[tensor][block][:size], wanted[:size])
    assert [result.job_id for result in worker.get_finished()] == [1, 2]
    worker.shutdown()


def test_a_tier_that_is_off_misses_everything_and_ends_every_job() -> None:
    from kvtier.vllm.tier import KvtierTier
    from vllm.v1.kv_offload.base import LookupResult, OffloadKey, ReqContext
    from vllm.v1.kv_offload.tiering.base import TransferJob

    # Not made by vLLM's connector, so nobody says which model this is.
    pool = memoryview(np.zeros((4, 64), np.int8))
    tier = KvtierTier(SimpleNamespace(), pool, "KvtierTier", data_directory="/nowhere")  # type: ignore[arg-type]
    request, key = ReqContext("r"), OffloadKey(b"k" * 36)
    assert tier.lookup(key, request) is LookupResult.MISS
    tier.submit_store(TransferJob(7, {key}, np.array([1]), False, request))
    tier.submit_load(TransferJob(8, [key], np.array([2]), True, request))
    assert [(job.job_id, job.success) for job in tier.get_finished_jobs()] == [(7, False), (8, False)]
    assert list(tier.get_finished_jobs()) == []
    tier.drain_jobs()
    tier.on_request_finished(request)
    tier.shutdown()
