"""kvtier.Client: every call over gRPC."""

from __future__ import annotations

import time
import zlib

import kvtier
import pytest
from conftest import PATIENCE, Node, blocks, describe, keys


@pytest.mark.parametrize("endpoint", ["unix", "tcp"])
def test_what_is_put_is_got_byte_for_byte(node: Node, endpoint: str) -> None:
    space, names = node.space(1 << 20), keys(8)
    contents = [*blocks(7, 1 << 20), b"short"]
    with kvtier.Client(getattr(node.daemon, endpoint)) as client:
        outcomes = client.put(space, names, contents)
        assert [(outcome.kind, outcome.crc32) for outcome in outcomes] == [
            ("stored", zlib.crc32(content)) for content in contents
        ]
        got = client.get(space, names)
    assert [bytes(block) for block in got if isinstance(block, kvtier.Block)] == contents
    assert [block.index for block in got] == list(range(8))


def test_a_miss_is_a_value_with_a_reason(node: Node) -> None:
    space = node.space(4096)
    node.client.put(space, keys(1), [b"x"])
    found, missed = node.client.get(space, [b"k0", b"nobody put this"])
    assert isinstance(found, kvtier.Block) and bytes(found) == b"x"
    assert isinstance(missed, kvtier.Miss) and missed.index == 1 and missed.reason == "never_stored"


def test_a_lookup_finds_the_longest_prefix_in_one_call(node: Node) -> None:
    space = node.space(4096)
    node.client.put(space, keys(300), blocks(300, 100))
    lookup = node.client.lookup(space, [*keys(300), b"further"], lease=5.0)
    assert len(lookup) == 300 and {block.tier for block in lookup.prefix} == {"host"}
    assert lookup.miss is not None and lookup.miss.reason == "never_stored"
    assert lookup.lease is not None and lookup.lease.blocks == 300
    assert [len(block) for block in node.client.get_lease(lookup.lease) if isinstance(block, kvtier.Block)] == [100] * 300
    node.client.release(lookup.lease)
    node.client.release(lookup.lease)
    with pytest.raises(kvtier.NotFound):
        node.client.get_lease(lookup.lease)


def test_a_started_lookup_is_polled(node: Node) -> None:
    space = node.space(4096)
    node.client.put(space, keys(3), blocks(3, 10))
    pending = node.client.lookup_start(space, keys(4))
    lookup = pending.wait(PATIENCE)
    assert pending.ready() and pending.poll() is lookup
    assert len(lookup) == 3


def test_a_duplicate_and_a_refusal_are_outcomes(node: Node) -> None:
    space = node.space(100)
    assert node.client.put(space, [b"a"], [b"x"])[0].kind == "stored"
    (again,) = node.client.put(space, [b"a"], [b"x"])
    (orphan,) = node.client.put(space, [b"c"], [b"x"], parent=b"not there")
    (large,) = node.client.put(space, [b"d"], [b"x" * 101])
    assert (again.kind, again.ok) == ("duplicate", True)
    assert (orphan.kind, orphan.reason, orphan.ok) == ("declined", "parent_unknown", False)
    assert large.kind == "rejected" and "100" in large.detail


def test_parts_make_a_block_when_all_are_there(node: Node) -> None:
    space = node.space(3, 2)
    assert node.client.put(space, [b"a"], [b"123"], part=0)[0].kind == "part_accepted"
    assert len(node.client.lookup(space, [b"a"])) == 0
    assert node.client.put(space, [b"a"], [b"45"], part=1)[0].kind == "stored"
    (block,) = node.client.get(space, [b"a"])
    assert isinstance(block, kvtier.Block) and bytes(block) == b"12345"


def test_spaces_pins_prefetch_and_delete(node: Node) -> None:
    space = node.space(4096)
    node.client.put(space, keys(4), blocks(4, 64))
    (mine,) = [found for found in node.client.spaces() if found.space == space]
    assert (mine.name, mine.blocks, mine.nbytes) == (node.name, 4, 256)
    assert mine.description == describe(4096, model=node.name)
    assert node.client.pin(space, "system prompt", keys(2), 60.0) == 2
    assert (node.client.unpin(space, "system prompt"), node.client.unpin(space, "system prompt")) == (True, False)
    assert node.client.prefetch(space, keys(4)) == (4, 0, 0)
    assert node.client.delete(space, keys(4)[2:]) == 2
    assert len(node.client.lookup(space, keys(4))) == 2
    assert node.client.drop_space(space) == 2


def test_status_says_what_the_node_does(node: Node) -> None:
    deadline = time.monotonic() + PATIENCE
    while (status := node.client.status())["state"] == "recovering":
        assert time.monotonic() < deadline, "recovery does not end"
    host, *_ = [tier for tier in status["tiers"] if tier["tier"] == "host"]
    assert status["state"] == "serving" and host["capacity_bytes"] == 64 << 20
    assert status["local"] is not None and status["alarms"] == []


def test_events_tell_what_comes_and_goes(node: Node) -> None:
    space = node.space(4096)
    events = node.client.events("snapshot", [space])
    kinds: list[str] = []
    position = (0, 0)
    while "snapshot_end" not in kinds:
        batch = next(events)
        position = (batch.epoch, batch.seq)
        kinds += [event.kind for event in batch.events]
    assert kinds[0] == "reset"
    node.client.put(space, [b"first", b"second"], [b"1", b"22"])
    node.client.delete(space, [b"second"])
    seen: list[kvtier.Event] = []
    while len(seen) < 3:
        batch = next(events)
        seen += [event for event in batch.events if event.kind in ("stored", "removed") and event.tier == "host"]
    assert [event.kind for event in seen] == ["stored", "stored", "removed"]
    assert [event.key for event in seen] == [b"first", b"second", None]
    assert seen[1].parent_block == seen[0].block and seen[2].block == seen[1].block
    assert seen[1].nbytes == 2 and seen[2].cause == "deleted"
    again = next(node.client.events(position, [space]))
    assert again.epoch == position[0] and "stored" in [event.kind for event in again.events]


def test_the_tail_of_events_holds_nothing_of_before(node: Node) -> None:
    space = node.space(4096)
    assert node.client.events("tail", [space]).next(0.0) is None, "nothing happened in it yet"
    # Events are told once they are durable, and so is a durable put when it is answered.
    node.client.put(space, [b"before"], [b"1"], durability="durable")
    tail = node.client.events("tail", [space])
    node.client.put(space, [b"after"], [b"2"])
    stored: list[kvtier.Event] = []
    while not stored:
        stored = [event for event in next(tail).events if event.kind == "stored" and event.tier == "host"]
    assert [event.key for event in stored] == [b"after"]


@pytest.mark.parametrize(
    ("call", "field", "remedy"),
    [
        (lambda c, s: c.lookup(b"short", [b"a"]), "space", "32 bytes"),
        (lambda c, s: c.lookup(s, []), "keys", "1 to 65,536"),
        (lambda c, s: c.lookup(s, [b"x" * 65]), "keys", "1 to 64 bytes"),
        (lambda c, s: c.lookup(s, [b"a"], lease=-1.0), "lease", "zero or more"),
        (lambda c, s: c.lookup(s, [b"a"], lease=0.0), "lease", "1 ms"),
        (lambda c, s: c.put(s, [b"a", b"b"], [b"1"]), "buffers", "one per key"),
        (lambda c, s: c.put(s, [b"a"], [b""]), "bytes", "64 MiB"),
        (lambda c, s: c.put(s, [b"a"], [b"1"], durability="soon"), "durability", "volatile"),
        (lambda c, s: c.events("yesterday"), "start", "snapshot"),
        (lambda c, s: c.open_space("n", describe()), "parts", "1 to 64 parts"),
        (lambda c, s: kvtier.Client("localhost:1"), "endpoint", "http://HOST:PORT"),
        (lambda c, s: kvtier.Client("unix:///nowhere", call_timeout=0), "call_timeout", "10 s"),
    ],
)
def test_bad_input_names_field_value_and_remedy(node: Node, call, field: str, remedy: str) -> None:
    space = node.space(4096)
    with pytest.raises(kvtier.InvalidArgument) as raised:
        call(node.client, space)
    assert raised.value.field == field and remedy in raised.value.remedy
    assert isinstance(raised.value, ValueError) and raised.value.retry_after is None
    assert raised.value.remedy in str(raised.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda c, s: c.lookup(s, "a string"),
        lambda c, s: c.lookup(s, ["text"]),
        lambda c, s: c.lookup("space", [b"a"]),
        lambda c, s: c.put(s, [b"a"], [7]),
        lambda c, s: c.open_space("n", {"tenant": "t"}),
        lambda c, s: c.lookup(s),
    ],
)
def test_wrong_types_are_type_errors(node: Node, call) -> None:
    space = node.space(4096)
    with pytest.raises((TypeError, AttributeError)):
        call(node.client, space)


def test_a_conflict_and_an_absent_space_are_told_apart(node: Node) -> None:
    node.space(4096)
    with pytest.raises(kvtier.Conflict):
        node.client.open_space(node.name, describe(8192, model=node.name))
    with pytest.raises(kvtier.NotFound):
        node.client.lookup(describe(1, model="never opened").digest(), [b"a"])


def test_a_closed_client_says_so(node: Node) -> None:
    client = kvtier.Client(node.daemon.unix)
    client.close()
    client.close()
    with pytest.raises(kvtier.Error, match="closed"):
        client.status()
