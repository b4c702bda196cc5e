"""The connection to the daemon, which may be away, hung or new at any time without anybody waiting for it.

    connecting ──ok──► up ──lost(error)──► connecting (again at once, then after growing pauses)
        │ failed: pause ──┘                        closed (for good, also by an error that is not kvtier's)

A thread of its own connects, and writes the log lines, which may block; everybody else only asks `client()`, which never blocks and answers None while the daemon
is away. Whoever meets an error that means "the daemon is not itself" says so with lost(), and nobody uses the client
until it has answered a question again. The client itself is kept, because it alone can tell the daemon that slots of a
connection it has lost will not be written any more.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar

import kvtier

T = TypeVar("T")

#: The first pause after a failure, doubled with every further one.
RETRY_FIRST = 0.1
#: How long an attempt may take.
CONNECT_TIMEOUT = 1.0

#: Log lines that wait to be written.
LINES_MAX = 100

#: Errors after which a new connection is made. NotFound: the daemon has forgotten the space, which connecting opens.
LOST = (
    kvtier.Unavailable,
    kvtier.TimedOut,
    kvtier.Indeterminate,
    kvtier.NotFound,
    kvtier.ProtocolBroken,
    kvtier.InternalError,
)


#: What a broken connection raises.
BROKEN = (kvtier.Unavailable, kvtier.Indeterminate)

#: No space has this name.
NOWHERE = bytes(32)


class Connect(Protocol):
    """Makes a client, or takes the one there was, and sees that it gets answers; raises kvtier.Error."""

    def __call__(self, kept: kvtier.LocalClient | None) -> kvtier.LocalClient: ...


def twice(call: Callable[[], T]) -> T:
    """Carries out a call that may be repeated. That a daemon was restarted while nobody asked it anything shows with
    the first call, and the connection is made anew with the second."""
    try:
        return call()
    except BROKEN:
        return call()


def ping(client: kvtier.LocalClient) -> None:
    """Asks the daemon something. Raises kvtier.Error when there is no answer."""
    with contextlib.suppress(kvtier.NotFound):
        twice(lambda: client.acquire(NOWHERE, [b"?"], min_tier="nvme", lease=1.0))


class Link:
    """One daemon as one process sees it. Thread-safe."""

    def __init__(self, connect: Connect, *, name: str, retry_max: float, say: Callable[[str], None]) -> None:
        self._connect = connect
        self._retry_max = retry_max
        self._say = say
        #: Lines to be logged; of more, the oldest are dropped.
        self._lines: deque[str] = deque(maxlen=LINES_MAX)
        self._changed = threading.Condition()
        self._client: kvtier.LocalClient | None = None
        self._kept: kvtier.LocalClient | None = None
        self._closed = False
        self._settled = False
        #: Connections that were lost, and the last reason.
        self.losses = 0
        self.reason = "not connected yet"
        self._thread = threading.Thread(target=self._keep_connected, name=f"kvtier-link-{name}", daemon=True)
        self._thread.start()

    @property
    def settled(self) -> bool:
        """Whether the first attempt is over, one way or the other."""
        return self._settled

    def client(self) -> kvtier.LocalClient | None:
        """The daemon, or None while it is away. Never blocks."""
        return self._client

    def lost(self, client: kvtier.LocalClient, error: BaseException) -> None:
        """Says what a call of `client` raised. Errors that are about the call alone change nothing."""
        if not isinstance(error, LOST):
            return
        with self._changed:
            if self._client is not client:
                return
            self._client = None
            self.losses += 1
            self.reason = str(error)
        self.say(f"kvtier: the daemon is away, prompts are computed until it is back: {error}")

    def say(self, line: str) -> None:
        """Has a line logged. Never blocks."""
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def reconnect(self) -> None:
        """Makes a new client: what the old one had opened is out of date."""
        with self._changed:
            self._client = None
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the connection and its thread."""
        with self._changed:
            self._closed = True
            self._client = self._kept = None
            self._changed.notify_all()
        self._thread.join(CONNECT_TIMEOUT * 3)
        self._log()

    def _keep_connected(self) -> None:
        pause = RETRY_FIRST
        while self._wait_until_wanted():
            started = time.monotonic()
            try:
                client = self._kept = self._connect(self._kept)
            except kvtier.Error as error:
                self._failed(error)
                # An attempt that took long was a pause already.
                self._sleep(max(0.0, pause - (time.monotonic() - started)))
                pause = min(pause * 2, self._retry_max)
                continue
            except Exception as error:  # whatever it is, it will not go away: computing everything is always right
                self._give_up(error)
                return
            with self._changed:
                self._settled = True
                self._client = None if self._closed else client
            self._say("kvtier: connected")
            pause = RETRY_FIRST

    def _failed(self, error: kvtier.Error) -> None:
        if not self._settled or str(error) != self.reason:
            self._say(f"kvtier: cannot reach the daemon, trying on: {error}")
        self.reason = str(error)
        self._settled = True

    def _give_up(self, error: Exception) -> None:
        self.reason = f"{type(error).__name__}: {error}"
        self._settled = self._closed = True
        self._say(f"kvtier: off until the engine is restarted, every prompt is computed: {self.reason}")

    def _wait_until_wanted(self) -> bool:
        while True:
            self._log()
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._client is None or self._lines)
                if self._closed or self._client is None:
                    break
        self._log()
        return not self._closed

    def _sleep(self, seconds: float) -> None:
        self._log()
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def _log(self) -> None:
        while self._lines:
            self._say(self._lines.popleft())
