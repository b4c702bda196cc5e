"""CpuTieringSpec: vLLM's TieringOffloadingSpec for engines on CPUs.

vLLM's own works on GPUs only: on CPUs it refuses to make the worker that copies blocks between the KV cache and the
pool. This supplies such a worker, which copies at once, in the thread of the engine; everything else (the connector,
the pool, the tiers) is vLLM's, unmodified. An engine on CPUs gains nothing from the pool itself, which is a second copy
in the same memory; it gains what the tiers below keep.

The pool is a file in /dev/shm that vLLM leaves behind when it is killed; here it loses its name as soon as scheduler
and workers have opened it, so that it ends with them.
"""

# mypy: disable-error-code="import-not-found,misc"
# The package is type-checked without vLLM, torch and blake3.

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from vllm.platforms import current_platform
from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from vllm.v1.kv_offload.base import CanonicalKVCaches, GPULoadStoreSpec, LoadStoreSpec, OffloadingManager


class CpuTieringSpec(TieringOffloadingSpec):
    """Named by "spec_name", with "spec_module_path": "kvtier.vllm"."""

    _worker: Any

    def get_manager(self) -> OffloadingManager:
        manager = super().get_manager()
        region = self._scheduler_mmap
        # Every worker has registered its KV cache, and opened the pool, before there is a scheduler; should that ever
        # change, the scheduler is the first to open it.
        if region is not None and not region._creator and os.path.exists(region.mmap_path):
            os.unlink(region.mmap_path)
        return manager

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        if self._worker is None:
            if not current_platform.is_cpu():
                raise ValueError('spec_name: CpuTieringSpec is for engines on CPUs; use "TieringOffloadingSpec"')
            if self.config.canonical_layout:
                raise ValueError("canonical_layout: not supported by CpuTieringSpec; leave it out")
            rank = 0 if self.replicated_layout else self.config.parallel.rank
            region = SharedOffloadRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            self._worker = CopyingWorker(kv_caches, self.blocks_per_chunk, region)
        worker: OffloadingWorker = self._worker
        return worker


class CopyingWorker(OffloadingWorker):
    """Copies when it is told to; nothing is ever under way."""

    def __init__(self, kv_caches: CanonicalKVCaches, blocks_per_chunk: int, region: SharedOffloadRegion) -> None:
        self._region = region
        self._each = blocks_per_chunk
        #: Per tensor: its blocks in the engine [block, byte], and in the pool [chunk, block in it, byte].
        self._tensors: list[tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]] = []
        for held in kv_caches.tensors:
            page = held.page_size_bytes
            pool = region.create_next_worker_view(page * blocks_per_chunk).numpy()
            self._tensors.append((held.tensor.numpy(), pool.reshape(pool.shape[0], blocks_per_chunk, page)))
        #: Per group: tensors, and how many bytes of their pages count.
        self._groups = [[(ref.tensor_idx, ref.page_size_bytes) for ref in refs] for refs in kv_caches.group_data_refs]
        self._finished: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec) -> bool:
        return self._copy(job_id, src_spec, dst_spec, store=True)

    def submit_load(self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        return self._copy(job_id, dst_spec, src_spec, store=False)

    def get_finished(self) -> list[TransferResult]:
        finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        """Nothing is under way."""

    def shutdown(self) -> None:
        self._tensors.clear()
        if not os.path.exists(self._region.mmap_path):
            # Its name is gone already.
            self._region._creator = False
        self._region.cleanup()

    def _copy(self, job_id: int, engine: GPULoadStoreSpec, pool: Any, store: bool) -> bool:
        began = time.monotonic()
        copied = 0
        block_at = chunk_at = 0
        for group, (count, first) in enumerate(zip(engine.group_sizes, engine.block_indices, strict=True)):
            if count == 0:
                continue
            # The first chunk may begin before the first block, and the last may end after the last one.
            skipped = first % self._each
            chunks = -(-(count + skipped) // self._each)
            blocks = engine.block_ids[block_at : block_at + count].tolist()
            rows = pool.block_ids[chunk_at : chunk_at + chunks].tolist()
            for index, block in enumerate(blocks, skipped):
                row, at = rows[index // self._each], index % self._each
                for tensor, size in self._groups[group]:
                    mine, theirs = self._tensors[tensor][0][block], self._tensors[tensor][1][row, at]
                    source, target = (mine, theirs) if store else (theirs, mine)
                    target[:size] = source[:size]
                    copied += size
            block_at += count
            chunk_at += chunks
        self._finished.append(TransferResult(job_id, True, copied, time.monotonic() - began))
        return True
