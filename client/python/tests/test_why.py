"""Why a request missed: naming requests and reporting what became of them, over both doors."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import kvtier
import pytest
from conftest import PATIENCE, Node, binary, blocks, keys, store


#: How `kvtier` ends when there is no such thing.
NOT_FOUND = 5


def why(node: Node, request: str) -> list[dict[str, Any]]:
    """What `kvtier why` tells of a request of the test's tenant; nothing if it was never told of it."""
    command = [str(binary().with_name("kvtier")), "--endpoint", node.daemon.unix, "--json", "why", request, "-t", "t"]
    told = subprocess.run(command, capture_output=True, text=True, env={})
    if told.returncode == NOT_FOUND:
        return []
    told.check_returncode()
    notes: list[dict[str, Any]] = json.loads(told.stdout)[0]["notes"]
    return notes


def test_lookups_and_reports_over_both_doors_are_one_story(node: Node) -> None:
    space, names = node.space(1000), keys(6)
    with node.local() as client:
        store(client, space, names[:4], blocks(4, 1000))
        assert len(client.acquire(space, names, request="story")) == 4
        assert len(client.acquire_start(space, names, min_tier="nvme", request="story").wait(60)) == 4
        client.report(space, "story", "loaded", blocks=3)
        # Answered after the report on the same connection was taken.
        client.acquire(space, names)
        assert len(node.client.lookup(space, names, request="story").prefix) == 4
        assert len(node.client.lookup_start(space, names[4:], request="story").wait(60).prefix) == 0
        node.client.report(space, "story", "failed", blocks=1, detail="the copy\nfailed")
    notes = why(node, "story")
    calls = [(note.get("call") or note["verdict"], note.get("answered_blocks", note.get("blocks"))) for note in notes]
    assert calls == [("acquire", 4), ("acquire", 4), ("loaded", 3), ("lookup", 4), ("lookup", 0), ("failed", 1)]
    assert notes[0]["miss"]["reason"] == "never_stored" and notes[0]["space"] == node.name
    assert notes[5]["detail"] == "the copy failed"


def test_a_client_that_saves_system_calls_tells_when_it_is_nudged(node: Node) -> None:
    space = node.space(1000)
    with node.local(notes_at_once=False) as client:
        client.report(space, "quiet", "loaded", blocks=3)
        # A report of somebody else, after which the first one would be known.
        node.client.report(space, "loud", "loaded")
        assert why(node, "loud") and not why(node, "quiet")
        client.nudge()
        deadline = time.monotonic() + PATIENCE
        while not why(node, "quiet"):
            assert time.monotonic() < deadline, "the daemon was not told"


def test_bad_names_and_verdicts_are_refused(node: Node) -> None:
    space = node.space(1000)
    with node.local() as client:
        with pytest.raises(kvtier.InvalidArgument, match="request"):
            client.acquire(space, keys(1), request="x" * 129)
        with pytest.raises(kvtier.InvalidArgument, match="verdict"):
            client.report(space, "r", "maybe")
