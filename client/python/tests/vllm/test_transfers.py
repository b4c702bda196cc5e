"""A tier's jobs: no vLLM, no daemon."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import kvtier
from fake_daemon import Link
from kvtier.vllm.settings import Settings
from kvtier.vllm.transfers import QUEUE_MAX, STORES_MAX, Job, Run, Transfers

SPACE = b"s" * 32
KEYS = [b"a", b"b", b"c"]


@dataclass
class Pending:
    answer: Any = None

    def poll(self) -> Any:
        if isinstance(self.answer, kvtier.Error):
            raise self.answer
        return self.answer

    def wait(self) -> Any:
        if self.answer is None:
            self.answer = kvtier.TimedOut("the client's own timeout")
        return self.poll()


@dataclass
class Pool:
    started: list[tuple[str, list[bytes], bytes | None]] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)

    def load_start(self, client: Any, space: bytes, keys: list[bytes], rows: list[int], **how: Any) -> Pending:
        return self._start("load", keys, None)

    def store_start(
        self, client: Any, space: bytes, keys: list[bytes], rows: list[int], *, parent: bytes | None, durability: str
    ) -> Pending:
        return self._start("store", keys, parent)

    def _start(self, what: str, keys: list[bytes], parent: bytes | None) -> Pending:
        self.started.append((what, keys, parent))
        self.pending.append(Pending())
        return self.pending[-1]


class World:
    def __init__(self, **settings: Any) -> None:
        self.pool, self.link = Pool(), Link("client")
        self.counts: Counter[str] = Counter()
        #: Why the jobs that ended last lost something.
        self.why: list[str] = []
        self.transfers = Transfers(
            Settings.read({"data_directory": "/d"} | settings),
            self.link,  # type: ignore[arg-type]
            lambda: SPACE,
            self.pool,  # type: ignore[arg-type]
            100,
            self.counts,
            lambda: 0.0,
        )

    def submit(self, number: int, load: bool = True, *runs: list[bytes]) -> None:
        chains = [Run(keys, list(range(len(keys)))) for keys in runs or (KEYS,)]
        self.transfers.submit(Job(number, "r", load, deque(chains)))

    def ended(self) -> list[tuple[int, list[bytes], list[bytes]]]:
        jobs = self.transfers.poll()
        self.why = [job.why for job in jobs]
        return [(job.number, job.done, job.lost) for job in jobs]


def loaded(count: int, reason: str | None = None) -> Any:
    return SimpleNamespace(count=count, reason=reason)


def stored(*reasons: str | None) -> list[Any]:
    return [SimpleNamespace(ok=reason is None, reason=reason) for reason in reasons]


def test_a_load_ends_with_what_it_brought() -> None:
    world = World()
    world.submit(1)
    assert world.ended() == []
    world.pool.pending[0].answer = loaded(2, "evicted")
    assert world.ended() == [(1, KEYS[:2], KEYS[2:])]
    assert world.why == ["evicted"]
    assert world.counts["loads_incomplete"] == world.counts["load_evicted"] == 1
    assert world.ended() == []


def test_so_many_run_at_a_time_and_the_rest_waits() -> None:
    world = World(load_threads=2)
    for number in range(5):
        world.submit(number)
        world.submit(10 + number, False)
    assert len(world.pool.started) == 2 + STORES_MAX
    for _ in range(5):
        for pending, (what, _, _) in zip(list(world.pool.pending), list(world.pool.started), strict=True):
            pending.answer = loaded(3) if what == "load" else stored(None, None, None)
        world.transfers.poll()
    assert len(world.pool.started) == 10


def test_more_than_may_wait_are_refused_at_once() -> None:
    world = World()
    for number in range(STORES_MAX + QUEUE_MAX + 3):
        world.submit(number, False)
    assert [number for number, _, _ in world.ended()] == [STORES_MAX + QUEUE_MAX + index for index in range(3)]
    assert world.why == ["too many jobs wait"] * 3


def test_a_store_goes_run_by_run() -> None:
    world = World()
    world.submit(1, False, [b"a", b"b"], [b"x"])
    world.pool.pending[0].answer = stored(None, "no_room")
    assert world.ended() == []
    world.pool.pending[1].answer = stored("under_way")
    assert world.ended() == [(1, [b"a", b"x"], [b"b"])]
    assert world.counts["declined_no_room"] == 1


def test_when_the_daemon_is_lost_everything_ends_at_once() -> None:
    world = World(load_threads=1)
    world.submit(1), world.submit(2), world.submit(3, False)
    world.pool.pending[0].answer = kvtier.TimedOut("hung")
    world.pool.pending[1].answer = stored(None, None, None)
    assert sorted(world.ended()) == [(1, [], KEYS), (2, [], KEYS), (3, KEYS, [])]
    world.submit(4)
    assert world.ended() == [(4, [], KEYS)]
    assert world.why == ["the daemon is away"]
    assert len(world.link.errors) == 1


def test_an_error_that_says_nothing_of_the_daemon_ends_the_job_too() -> None:
    world = World()
    world.submit(1)
    world.pool.pending[0].answer = kvtier.Exhausted("too many calls")
    world.link.lost = lambda client, error: None  # type: ignore[method-assign]
    assert world.ended() == [(1, [], KEYS)]
    assert world.why == ["too many calls"] and len(world.pool.started) == 1


def test_a_restart_nobody_noticed_costs_one_more_try() -> None:
    world = World()
    world.submit(1)
    world.pool.pending[0].answer = kvtier.Unavailable("restarted")
    assert world.ended() == []
    world.pool.pending[1].answer = kvtier.Unavailable("gone")
    assert world.ended() == [(1, [], KEYS)]
    assert len(world.pool.started) == 2


def test_draining_ends_every_job_and_touches_nothing_afterwards() -> None:
    world = World(load_threads=1)
    world.submit(1), world.submit(2), world.submit(3, False)
    world.pool.pending[1].answer = stored(None, None, None)
    world.transfers.drain()
    assert sorted(world.ended()) == [(1, [], KEYS), (2, [], KEYS), (3, KEYS, [])]
    assert len(world.pool.started) == 2
