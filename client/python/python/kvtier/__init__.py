"""kvtier: KV-cache blocks of LLM inference in host memory and on NVMe, through the daemon of the node.

LocalClient reads and writes blocks in the daemon's own memory, for workers of its machine. Client does everything over
gRPC. README.md has an example that runs.
"""

from __future__ import annotations

from kvtier import errors, identity, status
from kvtier._native import (
    Acquired,
    Block,
    Client,
    Event,
    EventBatch,
    Events,
    Filled,
    Lease,
    Loaded,
    LocalClient,
    Lookup,
    Miss,
    OpenSpace,
    Outcome,
    Pending,
    Pool,
    Reservation,
    Resident,
    Slot,
    __version__,
)
from kvtier.errors import (
    Conflict,
    Corrupt,
    Denied,
    Error,
    Exhausted,
    Forked,
    Indeterminate,
    InternalError,
    InvalidArgument,
    NotFound,
    ProtocolBroken,
    Stale,
    TimedOut,
    Unavailable,
)
from kvtier.identity import SpaceDescription

__all__ = [
    "Acquired",
    "Block",
    "Client",
    "Conflict",
    "Corrupt",
    "Denied",
    "Error",
    "Event",
    "EventBatch",
    "Events",
    "Filled",
    "Exhausted",
    "Forked",
    "Indeterminate",
    "InternalError",
    "InvalidArgument",
    "Lease",
    "Loaded",
    "LocalClient",
    "Lookup",
    "Miss",
    "NotFound",
    "OpenSpace",
    "Outcome",
    "Pending",
    "Pool",
    "ProtocolBroken",
    "Reservation",
    "Resident",
    "Slot",
    "SpaceDescription",
    "Stale",
    "TimedOut",
    "Unavailable",
    "__version__",
    "errors",
    "identity",
    "status",
]
