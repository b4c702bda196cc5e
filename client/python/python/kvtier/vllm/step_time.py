"""How much of a scheduler's step is left for what need not happen in it.

vLLM's scheduler is one thread: while it is with us no request of the engine goes on. A step may bring any number of
lookups and loads that end; each takes 10 to 30 us, most of that because the model has used the caches since. Work is
counted as it is done. What can wait is left to later steps once STEP_SECONDS are over. A request that is held back
loses a whole step, which may be seconds of another prompt, so what it needs has until HOLD_SECONDS; the piece that is
being done then, and the step's own stores, come on top.
"""

from __future__ import annotations

from collections.abc import Callable

#: Of the 200 us that a step may take: for what can wait, and for what a request waits for.
STEP_SECONDS = 60e-6
HOLD_SECONDS = 100e-6


class StepTime:
    """A stop-watch: `with step_time:` around everything that is to be counted, not nested. Used by one thread."""

    __slots__ = ("_began", "_clock", "_spent")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spent = 0.0
        self._began: float | None = None

    def begin(self) -> None:
        """A step is over, and the next one begins."""
        self._spent = 0.0

    def left(self, of: float = STEP_SECONDS) -> float:
        """Seconds until what has so much of a step is to wait; negative when they are over."""
        running = 0.0 if self._began is None else self._clock() - self._began
        return of - self._spent - running

    def __enter__(self) -> None:
        self._began = self._clock()

    def __exit__(self, *raised: object) -> None:
        if self._began is not None:
            self._spent += self._clock() - self._began
            self._began = None
