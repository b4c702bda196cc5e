"""KvtierTier: kvtier as a secondary tier of vLLM's own offloading (TieringOffloadingSpec).

vLLM copies blocks between its device and a pool in host memory itself; this stores what comes into the pool and brings
back what is asked for, straight between the pool and the daemon's arena. All of it is called by vLLM's scheduler, so
nothing here waits: questions and copies are started, and looked at with the next step.

    lookup, chunk by chunk ─► Lookups: one question per request and step
    submit_load, submit_store ─► Transfers: jobs of the native threads
    get_finished_jobs, on_schedule_end ─► what was answered meanwhile
    drain_jobs ─► weights may have been replaced: another space from now on

The pool is vLLM's (a file in /dev/shm); this keeps it mapped until shutdown(). While the daemon is away
every lookup misses, and what comes into the pool is not stored.
"""

# mypy: disable-error-code="import-not-found,misc"
# The package is type-checked without vLLM, torch and blake3.

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from vllm.logger import init_logger
from vllm.v1.kv_offload.base import (
    LookupResult,
    Medium,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
    get_offload_group_idx,
)
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

import kvtier
from kvtier.vllm import engine, offload
from kvtier.vllm.geometry import Unsupported
from kvtier.vllm.link import CONNECT_TIMEOUT, NOWHERE, Link
from kvtier.vllm.lookups import GROUP_BYTES, Lookups
from kvtier.vllm.notes import NAME_MAX, report, shorten
from kvtier.vllm.settings import Settings, read_of_tier
from kvtier.vllm.space import RowShape, describe_rows
from kvtier.vllm.spaces import Spaces
from kvtier.vllm.transfers import STORES_MAX, Job, Run, Transfers

if TYPE_CHECKING:
    from vllm.v1.kv_offload.base import OffloadingSpec

# vLLM configures only loggers below its own.
logger = init_logger("vllm.kvtier")

RESULTS = {True: LookupResult.HIT, False: LookupResult.MISS, None: LookupResult.RETRY}


class KvtierTier(SecondaryTierManager):
    """Made by vLLM; see docs/integrations/vllm.md for the command line. Settings stand beside "type"."""

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: OffloadingSpec,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self._settings = read_of_tier(settings)
        self.counts: Counter[str] = Counter()
        self._on: _Machinery | None = None
        #: Jobs of a tier that is off.
        self._refused: list[Job] = []
        self._groups = offload.Groups({}, frozenset())
        try:
            config, cache = offload.find_configuration()
            self._groups = offload.find_groups(offloading_spec, cache)
            rows = offload.measure_rows(offloading_spec, config, cache)
            identity = offload.identity_without_weights(config, cache, self._settings, offloading_spec)
            describe_rows(identity, rows)
        except Unsupported as why:
            logger.error("kvtier is off for this engine, every prompt is computed: %s", why)
            return

        def describe() -> kvtier.SpaceDescription:
            return describe_rows(offload.identify(config, cache, self._settings, offloading_spec), rows)

        self._on = _Machinery(self, describe, rows, primary_kv_view)

    # Requests

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        return RequestOffloadingContext()

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        if self._on is None:
            return LookupResult.MISS
        return RESULTS[self._on.lookups.lookup(req_context.req_id, key)]

    def on_request_finished(self, req_context: ReqContext) -> None:
        if self._on is not None:
            self._on.lookups.finished(req_context.req_id)

    # Jobs

    def submit_load(self, job_metadata: TransferJob) -> None:
        keys = list(job_metadata.keys)
        rows = [int(row) for row in job_metadata.chunk_ids]
        self._submit(job_metadata, True, [Run(keys, rows)])

    def submit_store(self, job_metadata: TransferJob) -> None:
        self._submit(job_metadata, False, self._runs(job_metadata))

    def _submit(self, metadata: TransferJob, load: bool, runs: list[Run]) -> None:
        job = Job(metadata.job_id, metadata.req_context.req_id, load, deque(runs))
        if self._on is None:
            job.give_up()
            self._refused.append(job)
        else:
            self._on.transfers.submit(job)

    def _runs(self, metadata: TransferJob) -> list[Run]:
        """A store's rows as chains: vLLM gives the keys of a job in no order."""
        position_of = metadata.req_context.get_offload_key_position
        placed = []
        for key, row in zip(metadata.keys, metadata.chunk_ids, strict=True):
            placed.append((get_offload_group_idx(key), position_of(key) or 0, key, int(row)))
        placed.sort()
        runs: list[Run] = []
        after = (-1, -1)
        for group, position, key, row in placed:
            tokens = self._groups.chunk_tokens.get(group, 0)
            if (group, position - tokens) != after:
                runs.append(Run([], [], self._parent(metadata.req_context, group, position - tokens)))
            runs[-1].keys.append(key)
            runs[-1].rows.append(row)
            after = (group, position)
        return runs

    def _parent(self, context: ReqContext, group: int, position: int) -> bytes | None:
        """The key of the chunk that ends at `position`, if the request has asked about it."""
        if position <= 0 or self._on is None:
            return None
        keys = list(self._on.lookups.known_keys(context.req_id))
        # They were asked about in their order: with one group it is there, and a long prompt has many.
        at = position // self._groups.chunk_tokens[group] - 1
        for key in (*keys[at : at + 1], *keys):
            if context.get_offload_key_position(OffloadKey(key)) == position and get_offload_group_idx(key) == group:
                return key
        return None

    def get_finished_jobs(self) -> Iterable[JobResult]:
        if self._on is None:
            ended, self._refused = self._refused, []
        else:
            self._on.lookups.poll()
            ended = self._on.transfers.poll()
        return [self._result(job) for job in ended]

    def _result(self, job: Job) -> JobResult:
        if job.load and self._on is not None:
            self._on.lookups.failed(job.request, job.lost)
            self._on.lookups.loaded(job.request)
            self._on.tell(job)
        return JobResult(
            job_id=job.number,
            success=not job.lost,
            successful_keys=tuple(OffloadKey(key) for key in job.done) if job.load and job.lost and job.done else None,
            transfer_time=job.seconds,
            transfer_bytes=len(job.done) * self._block_size_bytes,
        )

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        if self._on is not None:
            self._on.lookups.flush()

    def drain_jobs(self) -> None:
        """vLLM calls this before it empties its caches, as it does when weights were replaced in place: what is stored
        belongs to the old ones."""
        if self._on is not None:
            self._on.transfers.drain()
            self._on.renew()

    def shutdown(self) -> None:
        if self._on is not None:
            self._on.close()
            self._on = None
        if self.counts:
            logger.info("kvtier: %s", ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items())))


class _Machinery:
    """What a tier that is on consists of."""

    def __init__(self, tier: KvtierTier, describe: Any, rows: RowShape, view: memoryview) -> None:
        settings, counts = tier._settings, tier.counts
        self.spaces = spaces = Spaces(settings, describe, logger.warning)
        self.pool = kvtier.Pool(view, stride=tier.block_size_bytes, row_bytes=rows.row_bytes)

        def connect(kept: kvtier.LocalClient | None) -> kvtier.LocalClient:
            return _warm(spaces.connect("vllm-tier", kept or _writer(settings)))

        retry_max = settings.retry_ms_max / 1000
        self.link = Link(connect, name="vllm-tier", retry_max=retry_max, say=logger.warning)
        groups = [group.to_bytes(GROUP_BYTES, "big") for group in tier._groups.chunk_tokens]
        sparse = frozenset(group.to_bytes(GROUP_BYTES, "big") for group in tier._groups.sparse)

        def find() -> bytes | None:
            return spaces.find(None)

        self.lookups = Lookups(settings, self.link, find, groups, sparse, counts, name_of=engine.answered_id)
        self.transfers = Transfers(settings, self.link, find, self.pool, rows.row_bytes, counts)

    def tell(self, job: Job) -> None:
        """What a load brought, for `kvtier why`. What it lost is computed."""
        name = shorten(engine.answered_id(job.request), NAME_MAX)
        if job.lost:
            report(self.link, self.spaces.find(None), name, "failed", len(job.lost), job.why)
        else:
            report(self.link, self.spaces.find(None), name, "loaded", len(job.done), "")

    def renew(self) -> None:
        self.spaces.renew()
        self.lookups.forget()
        self.link.reconnect()

    def close(self) -> None:
        """Waits for copies under way: the pool goes with vLLM."""
        self.transfers.drain()
        self.lookups.forget()
        self.pool.close()
        self.link.close()
        self.spaces.close()


def _writer(settings: Settings) -> kvtier.LocalClient:
    """A client with a thread for every job that may run at a time. Raises kvtier.Error."""
    return kvtier.LocalClient(
        settings.socket_path,
        tenant=settings.tenant,
        name="vllm-tier",
        role="writer",
        connect_timeout=CONNECT_TIMEOUT,
        call_timeout=CONNECT_TIMEOUT,
        wait_timeout=settings.load_timeout_ms / 1000,
        threads=settings.load_threads + STORES_MAX,
    )


def _warm(client: kvtier.LocalClient) -> kvtier.LocalClient:
    """Has the client's threads started here, not in a step of the scheduler."""
    for tier in ("host", "nvme"):
        min_tier: Any = tier
        with contextlib.suppress(kvtier.NotFound):
            client.acquire_start(NOWHERE, [b"?"], min_tier=min_tier, lease=1.0).wait(CONNECT_TIMEOUT)
    return client
