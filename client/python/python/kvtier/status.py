"""What Client.status() answers. Counters count from the daemon's start; waits and ages are in seconds."""

from __future__ import annotations

from typing import TypedDict

__all__ = ["LocalStatus", "Status", "TierStatus"]


class TierStatus(TypedDict):
    tier: str
    state: str
    detail: str
    capacity_bytes: int
    used_bytes: int
    blocks: int
    hits: int
    stores: int
    evictions: int
    corrupt: int
    bytes_read: int
    bytes_written: int
    in_flight: int
    queued: int


class LocalStatus(TypedDict):
    clients: int
    reservations: int
    reserved_bytes: int
    quarantined_slots: int
    quarantined_bytes: int
    requests: int
    put_in_place_bytes: int
    acquired_bytes: int
    put_copied_bytes: int
    gpu_memories: int
    moves: int
    moves_ended: int
    moves_failed: int


class Status(TypedDict):
    version: str
    state: str
    uptime: float
    position: tuple[int, int] | None
    alarms: list[str]
    tiers: list[TierStatus]
    leases: int
    leased_blocks: int
    pins: int
    pending_puts: int
    connections: int
    spaces: int
    data_directory: str
    local: LocalStatus | None
