"""A daemon as the scheduler's side sees it, for tests without one: answers are made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import kvtier

SPACE = b"s" * 32


class Found(list[int]):
    """A leased prefix of so many blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__(range(blocks))
        self.miss = None
        self.in_host = blocks
        self.released = False

    def release(self) -> None:
        self.released = True


@dataclass
class Pending:
    """An answer, an error, or None while it is on its way."""

    answer: Any
    #: Called with every look, with how long it is to take.
    polled: Callable[[float], object] = lambda spin: None

    def poll(self, spin: float = 0.0) -> Any:
        self.polled(spin)
        if isinstance(self.answer, kvtier.Error):
            raise self.answer
        return self.answer


@dataclass
class Link:
    """A connection that is lost with the first error."""

    daemon: Any
    settled: bool = True
    errors: list[BaseException] = field(default_factory=list)

    def client(self) -> Any:
        return self.daemon

    def lost(self, client: Any, error: BaseException) -> None:
        self.errors.append(error)
        self.daemon = None
