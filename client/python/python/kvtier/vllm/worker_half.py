"""The half beside the engine's tensors: it brings the bytes in and out.

    loads    a thread: lease a run of units ─► compare checksums ─► one copy into the engine's pages, without the GIL
             ─► next run … ─► reported with the step that ends next, as loaded or as failed
    stores   before the forward pass, in a thread: reserve room in the daemon's memory for what this step will fill
             after it, in the step: one copy out of the engine's pages, without the GIL ─► commit, nobody waits

The engine's blocks are read only inside the step that filled them, so that no block must be kept for us; they are
written only while vLLM holds them for the load, which it does until we report its end. A load is reported only when its
thread has stopped writing. What has no room, or comes too late, is not stored: a later miss. If this process dies, the
daemon ends its leases and its unfinished stores with it.
"""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import kvtier
from kvtier.vllm.geometry import Pages
from kvtier.vllm.link import Link, twice
from kvtier.vllm.settings import Settings
from kvtier.vllm.step import Load, Step, Store

#: Bytes a load leases at a time: the daemon need not have room for a whole prompt in its host memory.
LOAD_RUN_BYTES = 64 << 20
#: Commits nobody has looked at yet; while there are this many nothing more is stored.
COMMITS_MAX = 1024


class Incomplete(Exception):
    """A load that cannot bring all of its units."""


@dataclass
class _Storing:
    """A store whose room has been asked for."""

    store: Store
    client: kvtier.LocalClient
    room: Future[list[kvtier.Reservation]]


@dataclass
class _Committing:
    request: str
    client: kvtier.LocalClient
    pending: kvtier.Pending[list[kvtier.Outcome]]


class WorkerHalf:
    """Used by one thread, the engine's; its own threads touch only what they were given."""

    def __init__(self, settings: Settings, link: Link, pages: Pages, rank: tuple[int, int]) -> None:
        self._settings = settings
        self._link = link
        self._pages = pages
        self._rank = rank
        self._loaders = ThreadPoolExecutor(settings.load_threads, "kvtier-load")
        self._reserver = ThreadPoolExecutor(1, "kvtier-reserve")
        self._loaded: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()
        self._storing: list[_Storing] = []
        self._committing: list[_Committing] = []
        #: Requests with a unit that was not stored: what follows it would never be found.
        self._broken: set[str] = set()
        self.counts: Counter[str] = Counter()

    # Loads

    def start_loads(self, step: Step) -> None:
        for load in step.loads:
            first_part, offset = step.parts.get(self._rank, (0, 0))
            self._loaders.submit(self._carry_out, load, offset)

    def take_loaded(self) -> tuple[set[str], set[str]]:
        """Requests whose loads have ended since the last call, and which of them failed."""
        ended: set[str] = set()
        failed: set[str] = set()
        while not self._loaded.empty():
            request, complete = self._loaded.get()
            ended.add(request)
            if not complete:
                failed.add(request)
        return ended, failed

    def _carry_out(self, load: Load, offset: int) -> None:
        complete = False
        try:
            complete = self._load(load, offset)
        finally:
            self._loaded.put((load.request, complete))

    def _load(self, load: Load, offset: int) -> bool:
        client = self._link.client()
        if client is None:
            self.counts["loads_away"] += 1
            return False
        unit_bytes = sum(self._pages.shape.part_bytes)
        run = max(1, LOAD_RUN_BYTES // unit_bytes)
        deadline = time.monotonic() + self._settings.load_timeout_ms / 1000
        try:
            for first in range(0, len(load.keys), run):
                if first and time.monotonic() > deadline:
                    raise Incomplete(f"{first} of {len(load.keys)} blocks took more than load_timeout_ms")
                self._load_run(client, load, first, min(first + run, len(load.keys)), offset)
        except Incomplete as why:
            self.counts["loads_incomplete"] += 1
            self._link.say(f"kvtier: {load.request} is computed: {why}")
            return False
        except kvtier.Error as error:
            self.counts["loads_failed"] += 1
            self._link.say(f"kvtier: {load.request} is computed: {error}")
            self._link.lost(client, error)
            return False
        self.counts["loaded_bytes"] += unit_bytes * len(load.keys)
        return True

    def _load_run(self, client: kvtier.LocalClient, load: Load, first: int, end: int, offset: int) -> None:
        lease = self._settings.load_timeout_ms / 1000 + 1
        keys = load.keys[first:end]
        with twice(lambda: client.acquire(load.space, keys, min_tier="host", lease=lease)) as found:
            if len(found) < end - first:
                raise Incomplete(f"block {first + len(found)} of {len(load.keys)} is gone: {found.miss}")
            if self._settings.verify:
                found.verify()
            indices = list(range(end - first))
            parts = []
            for group, units in enumerate(load.blocks):
                parts.append(self._pages.segments(group, units[first:end], indices, offset))
                offset += self._pages.shape.part_bytes[group]
            found.read_all(self._pages.buffers, np.concatenate(parts))

    # Stores

    def reserve(self, step: Step) -> None:
        """Before the forward pass: asks for room."""
        self._collect()
        client = self._link.client()
        if client is None or len(self._committing) >= COMMITS_MAX:
            self._broken.update(store.request for store in step.stores)
            return
        first_part, _ = step.parts.get(self._rank, (0, 0))
        for store in step.stores:
            if store.request not in self._broken:
                room = self._reserver.submit(self._ask_room, client, store, first_part)
                self._storing.append(_Storing(store, client, room))

    def fill(self) -> None:
        """After the forward pass: copies what it computed into the room, and says so."""
        storing, self._storing = self._storing, []
        left = self._settings.reserve_wait_ms / 1000
        for one in storing:
            try:
                reservations = one.room.result(left)
            except NotYet:
                left = 0
                self._break(one.store, "stores_late")
                # Whatever room comes after all is given back with the last reference to it.
                one.room.cancel()
                continue
            except kvtier.Error as error:
                self._break(one.store, "stores_failed")
                self._link.lost(one.client, error)
                continue
            self._copy_out(one, reservations)

    def forget(self, requests: Iterable[str]) -> None:
        """Requests that are over."""
        self._broken.difference_update(requests)

    def close(self) -> None:
        """Waits for loads under way: they write into the engine's memory."""
        self._reserver.shutdown(wait=True, cancel_futures=True)
        self._loaders.shutdown(wait=True, cancel_futures=True)
        for one in self._storing:
            if one.room.done() and not one.room.cancelled() and one.room.exception() is None:
                for reservation in one.room.result():
                    reservation.abort()
        self._storing = []
        self._collect(wait=self._settings.load_timeout_ms / 1000)

    def _ask_room(self, client: kvtier.LocalClient, store: Store, first_part: int) -> list[kvtier.Reservation]:
        """One reservation for the part of each group."""

        def reserve(group: int, size: int) -> kvtier.Reservation:
            durability: Any = self._settings.durability
            part = first_part + group
            return client.reserve(store.space, store.keys, size, parent=store.parent, part=part, durability=durability)

        sizes = self._pages.shape.part_bytes
        return [twice(partial(reserve, group, size)) for group, size in enumerate(sizes)]

    def _copy_out(self, one: _Storing, reservations: list[kvtier.Reservation]) -> None:
        # What follows a unit without room would never be found.
        end = min(_end_of_room(reservation) for reservation in reservations)
        if end < len(one.store.keys):
            self._break(one.store, "stores_declined")
        for group, reservation in enumerate(reservations):
            wanted = [index for index in reservation.writable if index < end]
            rest = [index for index in reservation.writable if index >= end]
            if rest:
                reservation.abort(rest)
            if not wanted:
                continue
            units = [one.store.blocks[group][index] for index in wanted]
            try:
                moved = reservation.write_all(self._pages.buffers, self._pages.segments(group, units, wanted, 0))
                pending = reservation.commit_start(wanted)
            except kvtier.Error as error:
                self._break(one.store, "stores_failed")
                self._link.lost(one.client, error)
                return
            self.counts["stored_bytes"] += moved
            self._committing.append(_Committing(one.store.request, one.client, pending))

    def _collect(self, wait: float | None = None) -> None:
        """Looks at commits that were answered meanwhile."""
        still: list[_Committing] = []
        for one in self._committing:
            try:
                outcomes = one.pending.poll() if wait is None else one.pending.wait(wait)
            except kvtier.Error as error:
                self._broken.add(one.request)
                self.counts["stores_failed"] += 1
                self._link.lost(one.client, error)
                continue
            if outcomes is None:
                still.append(one)
            elif not all(outcome.ok for outcome in outcomes):
                self._broken.add(one.request)
                self.counts["stores_declined"] += 1
        self._committing = still

    def _break(self, store: Store, why: str) -> None:
        self._broken.add(store.request)
        self.counts[why] += 1


def _end_of_room(reservation: kvtier.Reservation) -> int:
    """The position of the first slot that nobody writes: neither we, nor somebody who has or is at it."""
    for slot in reservation:
        if slot.kind not in ("write", "duplicate") and slot.reason != "under_way":
            return slot.index
    return len(reservation)
