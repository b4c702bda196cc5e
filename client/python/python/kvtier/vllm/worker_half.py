"""The half beside the engine's tensors: it brings the bytes in and out.

    loads    after the forward pass: one call starts it ─► a thread without the GIL leases, compares and copies run after
             run ─► reported with the step that ends next: which units are whole
    stores   before the forward pass: room in the daemon's memory is asked for, in a thread without the GIL
             after it, in the step: one copy out of the engine's pages, without the GIL ─► commit, nobody waits

The engine's blocks are read only inside the step that filled them, so that no block must be kept for us; they are
written only while vLLM holds them for the load, which it does until we report its end. A load is reported only when its
thread has stopped writing. What has no room, or comes too late, is not stored: a later miss. If this process dies, the
daemon ends its leases and its unfinished stores with it.

A load that ends early brought the units before its end. vLLM is told which blocks are invalid and keeps the ones before
them; where a block number does not name a group (several KV-cache groups) it can only be told that all of it failed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

import kvtier
from kvtier.vllm.geometry import Pages
from kvtier.vllm.link import Link
from kvtier.vllm.settings import Settings
from kvtier.vllm.step import NO_BLOCK, Load, LoadEnd, Step, StepReport, Store

#: Bytes a load leases at a time, and as many on their way: the daemon need not have room for a whole prompt.
LOAD_RUN_BYTES = 16 << 20
#: Loads under way; further ones fail at once.
LOADS_MAX = 1024
#: How long a step in which nothing is computed waits for a load to end, in seconds.
IDLE_WAIT = 0.001
#: Commits nobody has looked at yet; while there are this many nothing more is stored.
COMMITS_MAX = 1024


@dataclass
class _Loading:
    load: Load
    client: kvtier.LocalClient
    pending: kvtier.Pending[kvtier.Loaded]


@dataclass
class _Storing:
    """A store whose room has been asked for, group by group."""

    store: Store
    client: kvtier.LocalClient
    room: list[kvtier.Pending[kvtier.Reservation]]


@dataclass
class _Committing:
    request: str
    client: kvtier.LocalClient
    pending: kvtier.Pending[list[kvtier.Outcome]]


class WorkerHalf:
    """Used by one thread, the engine's."""

    def __init__(self, settings: Settings, link: Link, pages: Pages, rank: tuple[int, int]) -> None:
        self._settings = settings
        self._link = link
        self._pages = pages
        self._rank = rank
        self._loading: list[_Loading] = []
        self._storing: list[_Storing] = []
        self._committing: list[_Committing] = []
        #: Requests with a unit that was not stored: what follows it would never be found.
        self._broken: set[str] = set()
        #: Loads that have ended since the last report, those of them to fail whole, and blocks that were not loaded.
        self._failed: set[str] = set()
        self._invalid: set[int] = set()
        self._report = StepReport()
        self._began = 0.0
        self.counts: Counter[str] = Counter()

    # Loads

    def start_loads(self, step: Step) -> None:
        """After the forward pass."""
        if step.tokens and self._began:
            self._report.tokens, self._report.pairs = step.tokens, step.pairs
            self._report.seconds = time.monotonic() - self._began
        self._began = 0.0
        for load in step.loads:
            first_part, offset = step.parts.get(self._rank, (0, 0))
            self._start(load, offset)

    def take_loaded(self, idle: bool = False) -> tuple[set[str], set[str]]:
        """Requests whose loads have ended since the last call, and which of them failed as a whole. In a step that is
        `idle` this waits for a moment, instead of keeping vLLM's loop spinning."""
        if idle and self._loading and not self._report.loads:
            try:
                self._loading[0].pending.wait(IDLE_WAIT)
            except kvtier.Error:
                pass  # what there is to say about it comes with poll()
        still: list[_Loading] = []
        for one in self._loading:
            try:
                loaded = one.pending.poll()
            except kvtier.Error as error:
                self._fail(one.load, one.client, error)
                self._cut(one.load, 0, 0.0, str(error))
                continue
            if loaded is None:
                still.append(one)
            else:
                self._end(one, loaded)
        self._loading = still
        failed, self._failed = self._failed, set()
        return set(self._report.loads), failed

    def take_invalid(self) -> set[int]:
        """The engine's blocks that the loads of the last take_loaded() did not fill."""
        invalid, self._invalid = self._invalid, set()
        return invalid

    def take_report(self) -> StepReport | None:
        """What the scheduler half is to know of this step."""
        report, self._report = self._report, StepReport()
        return report if report.tokens or report.loads else None

    def _start(self, load: Load, offset: int) -> None:
        client = self._link.client()
        if client is None or len(self._loading) >= LOADS_MAX:
            self.counts["loads_away"] += 1
            self._cut(load, 0, 0.0, "the daemon is away")
            return
        indices = list(range(len(load.keys)))
        parts = []
        for group, units in enumerate(load.blocks):
            parts.append(self._pages.segments(group, units, indices, offset))
            offset += self._pages.shape.part_bytes[group]
        longest = self._settings.load_timeout_ms / 1000
        try:
            pending = client.load_start(
                load.space,
                load.keys,
                self._pages.buffers,
                np.concatenate(parts),
                verify=self._settings.verify,
                lease=longest + 1,
                timeout=longest,
                run_blocks=max(1, LOAD_RUN_BYTES // sum(self._pages.shape.part_bytes)),
            )
        except kvtier.Error as error:
            self._fail(load, client, error)
            self._cut(load, 0, 0.0, str(error))
            return
        self._loading.append(_Loading(load, client, pending))

    def _end(self, one: _Loading, loaded: kvtier.Loaded) -> None:
        """Counts a load that has stopped."""
        load = one.load
        self.counts["loaded_bytes"] += loaded.nbytes
        if loaded.blocks == len(load.keys):
            self._report.loads[load.request] = LoadEnd(loaded.blocks, loaded.seconds)
            return
        if loaded.error is not None:
            self._fail(load, one.client, loaded.error)
        else:
            self.counts["loads_incomplete"] += 1
            self._link.say(f"kvtier: {load.request} is computed from block {loaded.blocks} on: {loaded.why}")
        self._cut(load, loaded.blocks, loaded.seconds, loaded.why or "")

    def _fail(self, load: Load, client: kvtier.LocalClient, error: kvtier.Error) -> None:
        self.counts["loads_failed"] += 1
        self._link.say(f"kvtier: {load.request} is computed: {error}")
        self._link.lost(client, error)

    def _cut(self, load: Load, units: int, seconds: float, why: str) -> None:
        """Reports a load of which only the first `units` are whole."""
        if len(load.blocks) > 1:
            self._failed.add(load.request)
            units = 0
        else:
            self._invalid.update(block for unit in load.blocks[0][units:] for block in unit if block != NO_BLOCK)
        self._report.loads[load.request] = LoadEnd(units, seconds, why)

    # Stores

    def reserve(self, step: Step) -> None:
        """Before the forward pass: asks for room."""
        self._collect()
        client = self._link.client()
        if client is None or len(self._committing) >= COMMITS_MAX:
            self._broken.update(store.request for store in step.stores)
        else:
            first_part, _ = step.parts.get(self._rank, (0, 0))
            for store in step.stores:
                if store.request not in self._broken:
                    self._ask_room(client, store, first_part)
        self._began = time.monotonic() if step.tokens else 0.0

    def fill(self) -> None:
        """After the forward pass: copies what it computed into the room, and says so."""
        storing, self._storing = self._storing, []
        until = time.monotonic() + self._settings.reserve_wait_ms / 1000
        for one in storing:
            reservations = []
            try:
                for room in one.room:
                    left = max(0.0, until - time.monotonic())
                    reservations.append(room.poll() or room.wait(left))
            except kvtier.Error as error:
                # Room that comes after all is given back with the last reference to it.
                late = isinstance(error, kvtier.TimedOut) and not room.ready()
                self._break(one.store, "stores_late" if late else "stores_failed")
                if not late:
                    self._link.lost(one.client, error)
                continue
            self._copy_out(one, reservations)

    def forget(self, requests: Iterable[str]) -> None:
        """Requests that are over."""
        self._broken.difference_update(requests)

    def close(self) -> None:
        """Waits for loads under way, which write into the engine's memory, and for commits."""
        longest = self._settings.load_timeout_ms / 1000
        for one in self._loading:
            try:
                one.pending.wait(longest * 2)
            except kvtier.Error:
                pass  # the buffers stay borrowed until its thread has stopped
        self._loading = []
        self._storing = []
        self._collect(wait=longest)

    def _ask_room(self, client: kvtier.LocalClient, store: Store, first_part: int) -> None:
        """One reservation for the part of each group."""
        durability: Any = self._settings.durability
        try:
            room = [
                client.reserve_start(
                    store.space, store.keys, size, parent=store.parent, part=first_part + group, durability=durability
                )
                for group, size in enumerate(self._pages.shape.part_bytes)
            ]
        except kvtier.Error as error:
            self._break(store, "stores_failed")
            self._link.lost(client, error)
            return
        self._storing.append(_Storing(store, client, room))

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
