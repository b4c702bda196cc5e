"""The connection to a daemon that comes and goes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import kvtier
import pytest
from kvtier.vllm.link import Link

PATIENCE = 60.0


class Attempts:
    """Connects as often as it is allowed to."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.kept: list[Any] = []
        self.made = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)

    def __call__(self, kept: Any) -> Any:
        self.kept.append(kept)
        self.allowed.acquire()
        answer = self.answers.pop(0)
        self.made.release()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def allow(self, *answers: Any) -> None:
        self.answers += answers
        for _ in answers:
            self.allowed.release()
        for _ in answers:
            assert self.made.acquire(timeout=PATIENCE)


@pytest.fixture
def attempts() -> Attempts:
    return Attempts()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def link(attempts: Attempts, said: list[str]) -> Iterator[Link]:
    link = Link(attempts, name="test", retry_max=0.1, say=said.append)
    yield link
    attempts.answers.append(kvtier.Unavailable("the test is over"))
    attempts.allowed.release()
    link.close()


def until(true: Callable[[], bool]) -> None:
    """Waits for what another thread is about to do."""
    turn = threading.Event()
    for _ in range(int(PATIENCE * 1000)):
        if true():
            return
        turn.wait(0.001)
    raise AssertionError("it did not happen")


def test_nobody_waits_for_a_connection(link: Link, attempts: Attempts) -> None:
    assert link.client() is None
    assert not link.settled
    attempts.allow("client")
    until(lambda: link.client() == "client")  # type: ignore[comparison-overlap]
    assert link.settled


def test_it_tries_until_it_succeeds_and_says_the_same_thing_once(
    link: Link, attempts: Attempts, said: list[str]
) -> None:
    attempts.allow(*[kvtier.Unavailable("away")] * 5, "client")
    until(lambda: link.client() is not None)
    assert said == ["kvtier: cannot reach the daemon, trying on: away", "kvtier: connected"]


def test_a_lost_client_is_replaced_once_for_all_who_lost_it(link: Link, attempts: Attempts) -> None:
    attempts.allow("first")
    until(lambda: link.client() is not None)
    link.lost("first", kvtier.Unavailable("gone"))  # type: ignore[arg-type]
    assert link.client() is None
    attempts.allow("second")
    until(lambda: link.client() is not None)
    link.lost("first", kvtier.Unavailable("gone"))  # type: ignore[arg-type]
    assert link.client() == "second"  # type: ignore[comparison-overlap]
    assert link.losses == 1
    assert attempts.kept[:2] == [None, "first"], "it alone can give back what its connection had reserved"


@pytest.mark.parametrize("error", [kvtier.Exhausted("full"), kvtier.Stale("late"), kvtier.Corrupt("rotten")])
def test_errors_of_a_call_alone_keep_the_connection(link: Link, attempts: Attempts, error: kvtier.Error) -> None:
    attempts.allow("client")
    until(lambda: link.client() is not None)
    link.lost("client", error)  # type: ignore[arg-type]
    assert link.client() == "client"  # type: ignore[comparison-overlap]


def test_an_error_that_is_not_the_daemons_turns_it_off_for_good(
    link: Link, attempts: Attempts, said: list[str]
) -> None:
    attempts.allow(OSError("no such weights"))
    until(lambda: bool(said))
    assert said == ["kvtier: off until the engine is restarted, every prompt is computed: OSError: no such weights"]
    assert link.client() is None
