"""What a person may set in `kv_connector_extra_config`.

Every setting has a unit in its name, a default and a bound. Unknown names and values out of bounds are refused when the
engine starts, all of them in one message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kvtier.errors import InvalidArgument

#: (smallest, largest) of the numbers.
BOUNDS: dict[str, tuple[int, int]] = {
    "lookup_wait_us": (0, 10_000),
    "lookup_timeout_ms": (1, 10_000),
    "load_timeout_ms": (10, 600_000),
    "load_threads": (1, 32),
    "lease_ms": (1_000, 300_000),
    "reserve_wait_ms": (0, 1_000),
    "retry_ms_max": (100, 600_000),
    "tokens_min": (1, 1 << 30),
}
CHOICES = {"store": ("all", "prompt"), "durability": ("volatile", "durable")}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the connector behaves. The defaults are right for a daemon on the same machine."""

    #: The daemon's data_directory: where its two sockets are. Either this, or both of the next two.
    data_directory: str = ""
    #: The daemon's local.socket: blocks travel through shared memory behind it.
    local_socket: str = ""
    #: The daemon's gRPC endpoint, such as unix:///run/kvtier/kvtierd.sock: spaces are opened there.
    endpoint: str = ""
    #: Whose blocks these are. Engines of different tenants never share blocks.
    tenant: str = "default"
    #: Fingerprint of the weights, such as a revision. Empty: computed from the files of the model.
    weights: str = ""
    #: Which blocks are stored: "all" that become full, or those of the "prompt" only (answers are computed again in the
    #: next turn of a conversation).
    store: str = "all"
    #: "volatile": stored when in host memory, written to NVMe as the daemon's admission policy says. "durable": every
    #: block is also synced to NVMe.
    durability: str = "volatile"
    #: Compare every block with its checksum before the engine reads it (28 GB/s a core).
    verify: bool = True
    #: Compute what measured prices say is computed sooner than loaded.
    gate: bool = True
    #: Prompts with fewer tokens than this are never looked up.
    tokens_min: int = 1
    #: How long one scheduler step may wait for answers to lookups; after that the request is asked about again in the
    #: next step. Waited awake.
    lookup_wait_us: int = 60
    #: How long a lookup may take in all, before its request is computed.
    lookup_timeout_ms: int = 100
    #: How long a load may take, reading from NVMe included, before its request is computed.
    load_timeout_ms: int = 5_000
    #: Loads at a time, per worker.
    load_threads: int = 2
    #: How long found blocks stay where they are for a request that waits for room in the engine.
    lease_ms: int = 30_000
    #: How long the end of a step may wait for room in the daemon's memory; what has no room by then is not stored.
    reserve_wait_ms: int = 20
    #: Longest pause between two attempts to reach a daemon that is away.
    retry_ms_max: int = 2_000

    @property
    def socket_path(self) -> str:
        return self.local_socket or str(Path(self.data_directory) / "local.sock")

    @property
    def grpc_endpoint(self) -> str:
        return self.endpoint or f"unix://{Path(self.data_directory).absolute() / 'kvtierd.sock'}"

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Settings:
        """The settings in `given`. Raises InvalidArgument that names every problem."""
        known = {field.name: field for field in fields(cls)}
        problems = [f"{name}: no such setting; use one of {', '.join(known)}" for name in given if name not in known]
        for name, value in given.items():
            if name in known:
                problems += _problems(name, value, type(known[name].default))
        if (
            not problems
            and not given.get("data_directory")
            and not (given.get("local_socket") and given.get("endpoint"))
        ):
            problems.append("data_directory: missing; name the daemon's folder, or give local_socket and endpoint")
        if problems:
            raise InvalidArgument("kv_connector_extra_config: " + "; ".join(problems))
        return cls(**given)


def _problems(name: str, value: Any, kind: type[Any]) -> list[str]:
    if type(value) is not kind:  # True is not a number here
        return [f"{name}: {value!r} is a {type(value).__name__}; give a {kind.__name__}"]
    if name in BOUNDS:
        low, high = BOUNDS[name]
        if not low <= value <= high:
            return [f"{name}: {value} is out of bounds; use {low} to {high}"]
    if name in CHOICES and value not in CHOICES[name]:
        return [f"{name}: {value!r} is unknown; use one of {', '.join(CHOICES[name])}"]
    return []


#: Settings that mean something to a tier, too: vLLM decides the others itself.
OF_TIER = (
    "data_directory",
    "local_socket",
    "endpoint",
    "tenant",
    "weights",
    "durability",
    "verify",
    "lookup_timeout_ms",
    "load_timeout_ms",
    "load_threads",
    "lease_ms",
    "retry_ms_max",
)


def read_of_tier(given: Mapping[str, Any]) -> Settings:
    """The settings of a tier, which stand beside its "type". Raises InvalidArgument that names every problem."""
    unknown = [name for name in given if name not in OF_TIER]
    if unknown:
        raise InvalidArgument(
            f"secondary_tiers: {', '.join(unknown)}: no such settings of KvtierTier; use some of {', '.join(OF_TIER)}"
        )
    return Settings.read(given)
