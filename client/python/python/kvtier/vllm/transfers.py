"""Jobs of vLLM's tiers: rows of its CPU pool on their way into kvtier, or back.

    queued ──room among those that run──► running, run after run ──► ended (told with the next step)
       └──the daemon is away, or too many──► ended as failed

A job's bytes are moved by threads of the native client, which never touch Python; this only starts them and looks at
their answers. The rows of a job are vLLM's, kept for it until it has ended; a job ends only when no thread of ours can
touch its rows any more. All waits of those threads are bounded by the client's own timeouts, so every job ends.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import kvtier
from kvtier.vllm.link import BROKEN, Link
from kvtier.vllm.settings import Settings

#: Jobs that may wait; what comes then is not stored, or computed.
QUEUE_MAX = 512
#: Stores at a time.
STORES_MAX = 2
#: Why nothing is moved.
AWAY = "the daemon is away"


@dataclass
class Run:
    """Rows whose blocks follow one another."""

    keys: list[bytes]
    rows: list[int]
    #: Key of the block before the first one, where that is known.
    parent: bytes | None = None


@dataclass
class Job:
    """One job of vLLM's."""

    number: int
    request: str
    load: bool
    runs: deque[Run]
    begun: float = 0.0
    #: Keys that are where they belong now.
    done: list[bytes] = field(default_factory=list)
    #: Keys that are not, and will not be.
    lost: list[bytes] = field(default_factory=list)
    #: Why something was lost; the first cause.
    why: str = ""
    seconds: float = 0.0
    again: bool = False
    client: kvtier.LocalClient | None = None
    pending: kvtier.Pending[Any] | None = None

    def give_up(self, why: str = "") -> None:
        """What is left of it will not be moved."""
        self.why = self.why or why
        for run in self.runs:
            self.lost += run.keys
        self.runs.clear()


class Transfers:
    """Used by one thread, vLLM's scheduler."""

    def __init__(
        self,
        settings: Settings,
        link: Link,
        find_space: Callable[[], bytes | None],
        pool: kvtier.Pool,
        row_bytes: int,
        counts: Counter[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._link = link
        self._find_space = find_space
        self._pool = pool
        self._row_bytes = row_bytes
        self._clock = clock
        self._most = {True: settings.load_threads, False: STORES_MAX}
        self._queued: dict[bool, deque[Job]] = {True: deque(), False: deque()}
        self._running: dict[bool, list[Job]] = {True: [], False: []}
        self._ended: list[Job] = []
        self.counts = counts

    def submit(self, job: Job) -> None:
        """Takes a job; never waits."""
        job.begun = self._clock()
        queued = self._queued[job.load]
        if len(queued) >= QUEUE_MAX:
            self._turn_away(job, "too many jobs wait")
            return
        if self._link.client() is None:
            self._turn_away(job, AWAY)
            return
        queued.append(job)
        self._start_queued(job.load)

    def poll(self) -> list[Job]:
        """Jobs that have ended since the last call."""
        for load in (True, False):
            self._running[load] = [job for job in self._running[load] if not self._advanced(job)]
            if self._queued[load]:
                self._start_queued(load)
        ended, self._ended = self._ended, []
        return ended

    def drain(self) -> None:
        """Waits until nothing touches vLLM's rows; what has not begun is given up. Their ends are told as always."""
        for load in (True, False):
            while self._queued[load]:
                self._end(self._queued[load].popleft())
            for job in self._running[load]:
                while job.pending is not None and not self._answered(job, wait=True):
                    pass
                job.give_up()
                self._end(job)
            self._running[load] = []

    def _start_queued(self, load: bool) -> None:
        queued, running = self._queued[load], self._running[load]
        while queued and len(running) < self._most[load]:
            job = queued.popleft()
            if self._start(job):
                running.append(job)

    def _start(self, job: Job) -> bool:
        """Starts a job's next run; False: it has ended."""
        client, space = self._link.client(), self._find_space()
        if client is None or space is None:
            self._turn_away(job, AWAY)
            return False
        run = job.runs[0]
        job.client = client
        try:
            if job.load:
                lease = self._settings.load_timeout_ms / 1000 + 1
                job.pending = self._pool.load_start(
                    client, space, run.keys, run.rows, lease=lease, verify=self._settings.verify
                )
            else:
                durability: Any = self._settings.durability
                job.pending = self._pool.store_start(
                    client, space, run.keys, run.rows, parent=run.parent, durability=durability
                )
        except kvtier.Error as error:
            self._fault(job, error)
            return False
        return True

    def _advanced(self, job: Job) -> bool:
        """Whether a job has ended, after a look at its answer."""
        if not self._answered(job, wait=False):
            return False
        if not job.runs:
            self._end(job)
            return True
        return not self._start(job)

    def _answered(self, job: Job, wait: bool) -> bool:
        """Takes the answer to a job's run; False: it is on its way, or asked for again."""
        assert job.pending is not None and job.client is not None
        try:
            answer = job.pending.wait() if wait else job.pending.poll()
        except kvtier.Error as error:
            job.pending = None
            if isinstance(error, BROKEN) and not job.again:
                # A daemon that was restarted unnoticed answers the second time.
                job.again = True
                return True
            self.counts["loads_failed" if job.load else "stores_failed"] += 1
            self._link.lost(job.client, error)
            job.give_up(str(error))
            return True
        if answer is None:
            return False
        job.pending = None
        run = job.runs.popleft()
        self._count(job, run, self._loaded(job, answer) if job.load else self._stored(run, answer))
        return True

    def _loaded(self, job: Job, answer: kvtier.Filled) -> int:
        if answer.reason is not None:
            self.counts["loads_incomplete"] += 1
            self.counts[f"load_{answer.reason}"] += 1
            job.why = job.why or answer.reason
        count: int = answer.count
        return count

    def _stored(self, run: Run, outcomes: list[kvtier.Outcome]) -> int:
        kept = 0
        for outcome in outcomes:
            # Somebody else is writing it: it will be there.
            if not outcome.ok and outcome.reason != "under_way":
                self.counts["stores_declined"] += 1
                self.counts[f"declined_{outcome.reason}"] += 1
                break
            kept += 1
        return kept

    def _count(self, job: Job, run: Run, kept: int) -> None:
        job.done += run.keys[:kept]
        job.lost += run.keys[kept:]
        self.counts["loaded_bytes" if job.load else "stored_bytes"] += kept * self._row_bytes

    def _fault(self, job: Job, error: kvtier.Error) -> None:
        self.counts["loads_failed" if job.load else "stores_failed"] += 1
        if job.client is not None:
            self._link.lost(job.client, error)
        job.give_up(str(error))
        self._end(job)

    def _turn_away(self, job: Job, why: str) -> None:
        self.counts["loads_away" if job.load else "stores_away"] += 1
        job.give_up(why)
        self._end(job)

    def _end(self, job: Job) -> None:
        job.give_up()
        job.seconds = self._clock() - job.begun
        self._ended.append(job)
