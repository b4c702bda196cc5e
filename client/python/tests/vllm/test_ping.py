"""A client that lost its daemon, with a real one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import kvtier
import pytest
from kvtier.vllm.link import ping
from kvtier.vllm.settings import Settings
from kvtier.vllm.spaces import attach

SPACE = kvtier.SpaceDescription(tenant="default", model="m", tokens_per_block=16, part_bytes=(65536,))


def client_of(daemon: Any) -> kvtier.LocalClient:
    settings = Settings.read({"data_directory": str(daemon.data), "load_timeout_ms": 300})
    return attach(settings, "test", "writer", None)


def test_a_hung_daemon_does_not_answer_and_later_does(start: Callable[..., Any]) -> None:
    daemon = start()
    client = client_of(daemon)
    daemon.pause()
    with pytest.raises(kvtier.Error):
        ping(client)
    daemon.resume()
    ping(client)


def test_a_new_daemon_is_found_with_the_second_question(start: Callable[..., Any]) -> None:
    daemon = start()
    client = client_of(daemon)
    daemon.kill()
    with pytest.raises(kvtier.Unavailable):
        ping(client)
    daemon.start()
    ping(client)


def test_slots_lost_with_a_connection_are_given_back(start: Callable[..., Any]) -> None:
    daemon = start()
    client = client_of(daemon)
    with kvtier.Client(daemon.unix) as grpc:
        space = grpc.open_space("s", SPACE)
        room = client.reserve(space, [b"a", b"b"], 65536)
        daemon.pause()
        with pytest.raises(kvtier.Error):
            ping(client)
        daemon.resume()
        ping(client)
        room.abort()
        ping(client)
        deadline = time.monotonic() + 30
        while (local := grpc.status()["local"]) and (local["quarantined_slots"] or local["reservations"]):
            assert time.monotonic() < deadline, local
            time.sleep(0.01)
