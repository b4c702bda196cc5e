"""kvtier's two doors as tests see them, so that one test says the same of both; and what tests of broken daemons share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kvtier
from engines import Engine, kvtier_tier, offloading

UNIT = 32
#: How long anything may take to come right again, in seconds.
WAIT = 60.0
Start = Callable[..., Any]
StartEngine = Callable[..., Engine]


@dataclass(frozen=True)
class Door:
    """Orders to engine_main, by what they are for."""

    name: str
    #: Empties the caches of the engine itself.
    forget: str
    #: Waits until everything is stored.
    settle: str
    counts: str
    #: What a step of the scheduler spends in it.
    figures: str
    #: What vLLM appends to the hash of a block.
    suffix: bytes

    def open(self, engine: StartEngine, data: Path, model: str = "tiny", *, options: Any = None, **settings: Any) -> Engine:
        """Starts an engine that keeps its blocks in the daemon of that folder."""
        if self is CONNECTOR:
            return engine(model, {"data_directory": str(data)} | settings, **(options or {}))
        return engine(model, transfer=offloading(kvtier_tier(data, **settings)), **(options or {}))


CONNECTOR = Door("connector", "forget", "drain", "counts", "hooks", b"")
TIER = Door("tier", "forget_host", "settle", "tier", "tier", bytes(4))


def start_roomy(start: Start, **settings: str) -> Any:
    return start(**{"host__bytes": "128MiB", "nvme__bytes": "512MiB", "local__client_bytes_max": "64MiB"} | settings)


def reconnected(engine: Engine, door: Door) -> None:
    wait_for(lambda: engine.ask(door.counts)["connected"], f"the {door.name} to be connected again")


def wait_for(true: Callable[[], Any], what: str, longest: float = WAIT) -> None:
    deadline = time.monotonic() + longest
    while not true():
        assert time.monotonic() < deadline, f"waited {longest} s for {what}"
        # The engine's own pauses are longer than this one.
        time.sleep(0.02)


def nothing_is_held(daemon: Any) -> None:
    """Leases, reservations and slots of clients that are gone come back."""

    def held() -> dict[str, int]:
        with kvtier.Client(daemon.unix) as client:
            status = client.status()
        local = status["local"]
        assert local is not None
        return {
            "leases": status["leases"],
            "pending puts": status["pending_puts"],
            "reservations": local["reservations"],
            "quarantined": local["quarantined_slots"],
        }

    wait_for(lambda: not any(held().values()), "the daemon to hold nothing")


def rot(file: Path, content: bytes) -> None:
    """Turns one bit in the middle of a block on the disk."""
    at = file.read_bytes().find(content) + len(content) // 2
    assert at >= len(content) // 2
    with file.open("r+b") as disk:
        disk.seek(at)
        byte = disk.read(1)[0]
        disk.seek(at)
        disk.write(bytes([byte ^ 1]))
