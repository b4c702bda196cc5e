"""What a tier asks the daemon: no vLLM, no daemon, a clock that stands still."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import kvtier
from fake_daemon import SPACE, Found, Link, Pending
from kvtier.vllm.lookups import OFFERS, Lookups
from kvtier.vllm.settings import Settings

FULL, WINDOW = (0).to_bytes(4, "big"), (1).to_bytes(4, "big")


@dataclass
class Daemon:
    """What a tier sees of a client: blocks that are there, by key."""

    there: set[bytes] = field(default_factory=set)
    late: bool = False
    asked: list[list[bytes]] = field(default_factory=list)
    leases: list[Found] = field(default_factory=list)
    broken: int = 0
    asking: Callable[[], object] = lambda: None

    def _prefix(self, keys: list[bytes]) -> Found:
        count = next((index for index, key in enumerate(keys) if key not in self.there), len(keys))
        self.leases.append(Found(count))
        return self.leases[-1]

    def acquire_start(self, space: bytes, keys: list[bytes], *, min_tier: str, lease: float, request: str) -> Pending:
        assert (space, min_tier) == (SPACE, "nvme") and request
        self.asking()
        self.asked.append(keys)
        if self.broken:
            self.broken -= 1
            return Pending(kvtier.Unavailable("restarted"))
        return Pending(None if self.late else self._prefix(keys))

    def acquire_runs_start(self, space: bytes, keys: list[bytes], *, lease: float, gaps_max: int) -> Pending:
        self.asked.append(keys)
        at, runs = 0, []
        while at < len(keys):
            run = self._prefix(keys[at:])
            if run:
                runs.append((at, run))
            at += len(run) + 1
        return Pending((runs, len(keys)))


class World:
    def __init__(self, *there: bytes, **settings: Any) -> None:
        self.daemon = Daemon(set(there))
        self.link = Link(self.daemon)
        self.now = 100.0
        self.counts: Counter[str] = Counter()
        self.lookups = Lookups(
            Settings.read({"data_directory": "/d"} | settings),
            self.link,  # type: ignore[arg-type]
            lambda: SPACE,
            [FULL, WINDOW],
            {WINDOW},
            self.counts,
            lambda: self.now,
        )

    def ask(self, keys: list[bytes], request: str = "r") -> list[bool | None]:
        """One step in which vLLM asks for these."""
        self.lookups.poll()
        verdicts = [self.lookups.lookup(request, key) for key in keys]
        self.lookups.flush()
        return verdicts


def keys(count: int, group: bytes = FULL) -> list[bytes]:
    return [bytes([index]) * 32 + group for index in range(count)]


def test_a_whole_prompt_is_one_question_and_the_answer_is_there_with_the_next_step() -> None:
    world = World(*keys(3))
    assert world.ask(keys(5)) == [None] * 5
    assert world.daemon.asked == [keys(5)]
    assert world.ask(keys(5)) == [True] * 3 + [False] * 2
    assert world.daemon.asked == [keys(5)], "asked once"


def test_of_many_requests_each_step_asks_for_a_few_and_every_one_has_its_turn() -> None:
    world = World(*keys(3))
    world.daemon.asking = lambda: setattr(world, "now", world.now + 60e-6)
    for number in range(5):
        world.lookups.lookup(f"r{number}", keys(1)[0])
    asked = []
    for _ in range(4):
        world.lookups.flush()
        asked.append(len(world.daemon.asked))
    assert asked == [2, 4, 5, 5]


def test_what_is_being_loaded_is_not_asked_about_again_and_leases_end_with_the_load() -> None:
    world = World(*keys(3))
    world.ask(keys(3)), world.ask(keys(3))
    assert not world.daemon.leases[0].released
    world.lookups.loaded("r")
    assert world.daemon.leases[0].released


def test_a_failed_load_is_not_offered_again() -> None:
    world = World(*keys(3))
    world.ask(keys(3)), world.ask(keys(3))
    world.lookups.failed("r", keys(3)[1:])
    assert world.ask(keys(3)) == [True, False, False]
    assert world.ask(keys(1), "another request") == [None]


def test_a_block_that_leaves_the_pool_again_and_again_is_computed_in_the_end() -> None:
    world = World(*keys(1))
    world.ask(keys(1))
    assert [world.ask(keys(1))[0] for _ in range(OFFERS + 2)] == [True] * OFFERS + [False, False]


def test_nothing_is_asked_while_the_daemon_is_away_and_everything_afterwards() -> None:
    world = World(*keys(2))
    world.link.daemon = None
    assert world.ask(keys(2)) == [False, False]
    world.link.daemon = world.daemon
    assert world.ask(keys(2)) == [None, None]
    assert world.ask(keys(2)) == [True, True]


def test_the_first_connection_is_worth_a_short_wait() -> None:
    world = World()
    world.link.daemon, world.link.settled = None, False
    assert world.ask(keys(1)) == [None]
    world.now += 11
    assert world.ask(keys(1)) == [False]


def test_a_late_answer_means_that_the_daemon_is_away() -> None:
    world = World(*keys(2), lookup_timeout_ms=100)
    world.daemon.late = True
    world.ask(keys(2))
    world.now += 0.09
    assert world.ask(keys(2)) == [None, None]
    world.now += 0.02
    assert world.ask(keys(2)) == [False, False]
    assert isinstance(world.link.errors[0], kvtier.TimedOut)


def test_a_daemon_that_was_restarted_unnoticed_is_asked_twice_and_no_more() -> None:
    world = World(*keys(1))
    world.daemon.broken = 1
    world.ask(keys(1)), world.ask(keys(1))
    assert world.ask(keys(1)) == [True]
    broken = World(*keys(1))
    broken.daemon.broken = 9
    broken.ask(keys(1)), broken.ask(keys(1))
    assert broken.ask(keys(1)) == [False]
    assert len(broken.daemon.asked) == 2


def test_sparse_groups_are_looked_up_after_the_full_ones_and_gaps_do_not_end_them() -> None:
    window = list(reversed(keys(6, WINDOW)))
    world = World(*keys(6), window[0], window[1], window[4])
    assert world.ask(keys(6) + window) == [None] * 12
    assert world.daemon.asked == [keys(6)]
    # Now it is known how far the full ones go, so vLLM asks for as much.
    assert world.ask(keys(6) + window) == [True] * 6 + [None] * 6
    assert world.daemon.asked == [keys(6), window]
    assert world.ask(window) == [True, True, False, False, True, False]


def test_a_finished_request_keeps_nothing() -> None:
    world = World(*keys(2))
    world.ask(keys(2)), world.ask(keys(2))
    world.lookups.finished("r")
    assert world.daemon.leases[0].released
    world.daemon.late = True
    world.ask(keys(2), "late")
    world.lookups.finished("late")
    world.daemon.late = False
    world.now += 10
    world.ask(keys(1), "next")
    assert world.link.errors == []


def test_each_request_has_its_own_verdicts() -> None:
    world = World()
    world.ask(keys(1), "a"), world.ask(keys(1), "a")
    world.daemon.there = set(keys(1))
    assert world.ask(keys(1), "a") == [False]
    world.ask(keys(1), "b")
    assert world.ask(keys(1), "b") == [True]
