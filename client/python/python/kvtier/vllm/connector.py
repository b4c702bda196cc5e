"""KvtierConnector: vLLM's hooks, each handed to the half it belongs to.

vLLM makes one connector in its scheduler and one in every worker. What the scheduler half decides travels to the
workers with every step (StepMetadata), what the workers are travels to the scheduler once (ShapeMetadata), and which
loads ended comes back with every step's output. docs/integrations/vllm.md draws which hook is called when.
"""

# mypy: disable-error-code="import-not-found,no-any-return,misc"
# The package is type-checked without vLLM, torch and blake3: its classes are Any.

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.logger import init_logger

from kvtier.vllm import engine
from kvtier.vllm.geometry import Pages, Unsupported, WorkerShape, measure
from kvtier.vllm.link import Link
from kvtier.vllm.scheduler_half import SchedulerHalf
from kvtier.vllm.settings import Settings
from kvtier.vllm.space import describe_space, part_places
from kvtier.vllm.spaces import Spaces, attach
from kvtier.vllm.stats import KvtierStats
from kvtier.vllm.step import Step, StepReport
from kvtier.vllm.worker_half import WorkerHalf

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats
    from vllm.forward_context import ForwardContext
    from vllm.v1.attention.backend import AttentionMetadata
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

# vLLM configures only loggers below its own.
logger = init_logger("vllm.kvtier")


class StepMetadata(KVConnectorMetadata):
    """What the workers do in a step."""

    def __init__(self, step: Step) -> None:
        self.step = step


class ShapeMetadata(KVConnectorHandshakeMetadata):
    """What a worker's blocks are."""

    def __init__(self, shape: WorkerShape) -> None:
        self.shape = shape


class ReportMetadata(KVConnectorWorkerMetadata):
    """What became of a step and of loads."""

    def __init__(self, report: StepReport) -> None:
        self.report = report

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        return ReportMetadata(self.report.merge(other.report)) if isinstance(other, ReportMetadata) else self


class KvtierConnector(KVConnectorBase_V1, SupportsHMA):
    """vLLM's KV cache in kvtier. Made by vLLM; see kvtier.vllm for the command line."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._settings = Settings.read(self._kv_transfer_config.kv_connector_extra_config)
        if self._kv_transfer_config.kv_load_failure_policy != "recompute":
            raise ValueError(
                'kv_load_failure_policy: "fail" would fail a request whenever a block has left the cache; '
                'add "kv_load_failure_policy": "recompute" to --kv-transfer-config'
            )
        self._scheduler: SchedulerHalf | None = None
        self._spaces: Spaces | None = None
        self._worker: WorkerHalf | None = None
        self._link: Link | None = None
        self._shape: WorkerShape | None = None
        #: Counts of each half that vLLM has been told already.
        self._told: tuple[dict[str, int], dict[str, int]] = {}, {}
        try:
            self._groups = engine.plan_groups(vllm_config, kv_cache_config)
        except Unsupported as why:
            self._groups = []
            self._turn_off(why)

    @property
    def requires_kv_delivery(self) -> bool:
        """A store that does not happen is a later miss, so nothing waits for it."""
        return False

    # Workers

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        unit, _ = engine.unit_tokens(self._vllm_config, self._kv_cache_config)
        layout = engine.layout_name(self._kv_cache_config)
        try:
            plans = engine.with_packing(self._vllm_config, self._groups)
            if not plans:
                raise Unsupported("no KV-cache group can be kept")
            pages = measure(kv_caches, plans, self._kv_cache_config.num_blocks, unit, layout)
        except Unsupported as why:
            self._shape = WorkerShape("", layout, (), str(why))
            self._turn_off(why)
            return
        self._shape = pages.shape
        self._stop_worker()
        self._start_worker(pages)

    def _start_worker(self, pages: Pages) -> None:
        rank = engine.own_rank(self._vllm_config)
        name = f"vllm-worker-{rank[0]}-{rank[1]}"
        self._link = self._make_link(lambda kept: attach(self._settings, name, "writer", kept), name)
        self._worker = WorkerHalf(self._settings, self._link, pages, rank)

    def _stop_worker(self) -> None:
        """An engine that lays out its KV cache anew registers it again."""
        for part in (self._worker, self._link):
            if part is not None:
                part.close()

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        return ShapeMetadata(self._shape) if self._shape is not None else None

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        if self._worker is not None and isinstance(connector_metadata, StepMetadata):
            self._worker.reserve(connector_metadata.step)

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        metadata = self._get_connector_metadata()
        if self._worker is not None and isinstance(metadata, StepMetadata):
            self._worker.start_loads(metadata.step)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads happen between steps: nothing to wait for."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: AttentionMetadata, **kwargs: Any
    ) -> None:
        """Stores happen once for all layers, in wait_for_save."""

    def wait_for_save(self) -> None:
        if self._worker is not None:
            self._worker.fill()

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        if self._worker is None:
            return KVConnectorTransferResults()
        self._worker.forget(finished_req_ids)
        metadata = self._connector_metadata
        idle = isinstance(metadata, StepMetadata) and metadata.step.tokens == 0
        ended, failed = self._worker.take_loaded(idle)
        return KVConnectorTransferResults(finished_recving=ended, failed_recving=failed)

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._worker.take_invalid() if self._worker is not None else set()

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        report = self._worker.take_report() if self._worker is not None else None
        return ReportMetadata(report) if report is not None else None

    # Scheduler

    def set_xfer_handshake_metadata_pp_aware(
        self, metadata: Mapping[tuple[int, int], KVConnectorHandshakeMetadata]
    ) -> None:
        """Every worker has its KV cache: now it is known what a block is."""
        workers = {rank: held.shape for rank, held in metadata.items() if isinstance(held, ShapeMetadata)}
        problems = sorted({shape.problem for shape in workers.values() if shape.problem})
        if problems or not workers:
            self._turn_off(Unsupported("; ".join(problems) or "no worker has said what its KV cache is"))
            return
        try:
            places = part_places(workers)
            describe_space(
                engine.identity_without_weights(self._vllm_config, self._kv_cache_config, self._settings), workers
            )
        except Unsupported as why:
            self._turn_off(why)
            return
        self._start_scheduler(workers)
        if self._scheduler is not None:
            self._scheduler.parts = places

    def _start_scheduler(self, workers: dict[tuple[int, int], WorkerShape]) -> None:
        def describe() -> Any:
            return describe_space(engine.identify(self._vllm_config, self._kv_cache_config, self._settings), workers)

        unit, hashed = engine.unit_tokens(self._vllm_config, self._kv_cache_config)
        self._spaces = spaces = Spaces(self._settings, describe, logger.warning)
        self._link = self._make_link(lambda kept: spaces.connect("vllm-scheduler", kept), "vllm-scheduler")
        self._scheduler = SchedulerHalf(
            self._settings,
            self._link,
            spaces,
            unit_tokens=unit,
            hash_tokens=hashed,
            blocks_per_unit=[group.blocks_per_unit for group in next(iter(workers.values())).groups],
            group_ids=self._kv_cache_config.prefix_cacheable_group_ids,
            chunk_tokens=self._vllm_config.scheduler_config.max_num_batched_tokens,
            loads=self._kv_transfer_config.is_kv_consumer,
            stores=self._kv_transfer_config.is_kv_producer,
            name_of=engine.answered_id,
            never_asked=0 if all(group.kind in engine.WHOLE for group in self._groups) else 1,
        )

    def on_new_request(self, request: Request) -> None:
        if self._scheduler is not None:
            self._scheduler.on_new(request)

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        if self._scheduler is None:
            return 0, False
        return self._scheduler.matched(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        if self._scheduler is not None:
            self._scheduler.allocated(request, blocks.get_block_ids(), num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        state = scheduler_output.kv_connector_block_state
        if self._scheduler is None or state is None:
            return StepMetadata(Step())
        return StepMetadata(self._scheduler.step(scheduler_output.num_scheduled_tokens, state.get_block_ids))

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        if self._scheduler is None:
            return
        metadata = connector_output.kv_connector_worker_meta
        if isinstance(metadata, ReportMetadata):
            self._scheduler.learn(metadata.report)
        if connector_output.finished_recving or connector_output.invalid_block_ids:
            self._scheduler.loaded(
                list(connector_output.finished_recving or ()),
                list(connector_output.failed_recving or ()),
                connector_output.invalid_block_ids,
            )

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        if self._scheduler is not None:
            self._scheduler.finished(request.request_id)
        return False, None

    def reset_cache(self) -> bool | None:
        """Called when weights were replaced in place: what is stored belongs to the old ones."""
        if self._scheduler is not None and self._spaces is not None and self._link is not None:
            self._spaces.renew()
            self._scheduler.forget_found()
            self._link.reconnect()
        return True

    # Both

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        """Both halves count; vLLM adds up, logs and exports."""
        fresh: dict[str, int] = {}
        for half, told in zip((self._scheduler, self._worker), self._told, strict=True):
            for name, count in half.counts.items() if half is not None else ():
                before = told.get(name, 0)
                if count != before:
                    fresh[name] = fresh.get(name, 0) + count - before
                    told[name] = count
        return KvtierStats(fresh) if fresh else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats | None:
        return KvtierStats(dict(data or {}))

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()
        for part in (self._link, self._spaces):
            if part is not None:
                part.close()
        counts = {
            **(self._scheduler.counts if self._scheduler else {}),
            **(self._worker.counts if self._worker else {}),
        }
        if counts:
            logger.info("kvtier: %s", ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
        self._worker = self._scheduler = self._link = self._spaces = None

    def _make_link(self, connect: Any, name: str) -> Link:
        return Link(connect, name=name, retry_max=self._settings.retry_ms_max / 1000, say=logger.warning)

    def _turn_off(self, why: Exception) -> None:
        logger.error("kvtier is off for this engine, every prompt is computed: %s", why)
