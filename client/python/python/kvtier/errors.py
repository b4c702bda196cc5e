"""What can go wrong, by what the caller should do about it. A miss is never an exception, and neither is a refused put."""

from __future__ import annotations


class Error(Exception):
    """Everything kvtier raises, except wrong types and buffers (TypeError, BufferError, IndexError)."""

    #: Seconds after which the same call may succeed; None if waiting does not help.
    retry_after: float | None = None

    def __init__(self, message: str = "", **details: object) -> None:
        super().__init__(message)
        self.__dict__.update(details)


class InvalidArgument(Error, ValueError):
    """The call can never succeed as it is: fix it."""

    #: Which argument or setting.
    field: str = ""
    #: Its value, shortened; empty when the daemon did not say.
    value: str = ""
    #: What to give instead.
    remedy: str = ""


class NotFound(Error):
    """The space, lease or pin is not there: open the space, or look the chain up again."""


class Conflict(Error):
    """Something else has that name: choose another, or use the description that is there."""


class Denied(Error):
    """This client may not do that."""


class Unavailable(Error):
    """The daemon cannot be reached, starts or drains; nothing was done. Recompute now, try again after retry_after."""


class Exhausted(Error):
    """A bound is reached; nothing was done. Recompute now, try again after retry_after."""


class TimedOut(Error, TimeoutError):
    """No answer in time; nothing was changed. Recompute now."""


class Indeterminate(Error):
    """The connection broke during a change: it may have happened. Putting the same block again is harmless."""


class Corrupt(Error):
    """A block's bytes disagree with its checksum: recompute that block."""

    #: Its position in the chain.
    index: int = 0


class Stale(Error):
    """The lease had ended and the slot was given back while bytes were copied: throw the copy away and recompute."""


class Forked(Error):
    """The object belongs to the parent process: make clients after forking."""


class ProtocolBroken(Error):
    """The daemon's answer breaks the protocol: report it."""


class InternalError(Error):
    """The daemon, or this package, failed in a way it does not explain: report it."""
