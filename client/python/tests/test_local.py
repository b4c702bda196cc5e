"""kvtier.LocalClient: blocks in the daemon's own memory."""

from __future__ import annotations

import os
import zlib

import kvtier
import numpy as np
import pytest
from conftest import PATIENCE, Node, blocks, keys, store


def test_what_is_committed_is_acquired_byte_for_byte(node: Node) -> None:
    space, names, contents = node.space(1 << 20), keys(8), blocks(8, 1 << 20)
    with node.local() as client:
        reservation = client.reserve(space, names, 1 << 20)
        assert [slot.kind for slot in reservation] == ["write"] * 8 and reservation.writable == list(range(8))
        for slot, content in zip(reservation, contents):
            with memoryview(slot) as view:
                view[:] = content
        outcomes = reservation.commit()
        assert [outcome.crc32 for outcome in outcomes] == [zlib.crc32(content) for content in contents]
        with client.acquire(space, [*names, b"further"]) as acquired:
            assert [bytes(block) for block in acquired] == contents
            assert [block.crc32 for block in acquired] == [outcome.crc32 for outcome in outcomes]
            assert acquired.miss is not None and (acquired.miss.index, acquired.miss.reason) == (8, "never_stored")
            assert acquired.nbytes == 8 << 20 and acquired.in_host == 8 and acquired.still_valid()
            acquired.verify()
            assert acquired[-1].index == 7
            with pytest.raises(IndexError, match="of 8"):
                acquired[8]
    assert [bytes(block) for block in node.client.get(space, names) if isinstance(block, kvtier.Block)] == contents


def test_nothing_resident_is_an_empty_answer_with_a_reason(node: Node) -> None:
    with node.local() as client, client.acquire(node.space(10), keys(2)) as acquired:
        assert len(acquired) == 0 and list(acquired) == []
        assert acquired.miss is not None and acquired.miss.reason == "never_stored"
        assert acquired.still_valid()


def test_two_clients_fill_the_parts_of_one_block(node: Node) -> None:
    space = node.space(3000, 5000)
    one, two = os.urandom(3000), os.urandom(5000)
    with node.local(name="rank0") as first, node.local(name="rank1") as second:
        left, right = first.reserve(space, keys(1), 3000, part=0), second.reserve(space, keys(1), 5000, part=1)
        left.write(0, [one])
        right.write(0, [two])
        assert left.commit()[0].kind == "part_accepted"
        assert len(first.acquire(space, keys(1))) == 0
        (outcome,) = right.commit()
        assert (outcome.kind, outcome.crc32) == ("stored", zlib.crc32(one + two))
        with first.acquire(space, keys(1)) as acquired:
            assert bytes(acquired[0]) == one + two


def test_what_is_there_or_under_way_is_told_at_reserve(node: Node) -> None:
    space = node.space(10)
    with node.local() as client:
        store(client, space, [b"a"], [b"x" * 10])
        busy = client.reserve(space, [b"b"], 10, parent=b"a")
        mixed = client.reserve(space, [b"a", b"b", b"c"], 10)
        assert [slot.kind for slot in mixed] == ["duplicate", "declined", "write"]
        assert mixed[1].reason == "under_way" and mixed[1].detail
        mixed.write(2, [b"z" * 10])
        assert [outcome.kind for outcome in mixed.commit()] == ["duplicate", "declined", "stored"]
        with pytest.raises(BufferError, match="duplicate"):
            memoryview(mixed[0])
        busy.abort()
        assert client.reserve(space, [b"b"], 10, parent=b"a")[0].kind == "write"


def test_a_durable_commit_survives_the_daemon(start) -> None:
    node = Node(start(), "durable")
    space, contents = node.space(100_000), blocks(20, 100_000)
    with node.local() as client:
        store(client, space, keys(20), contents, durability="durable")
        again = client.reserve(space, keys(20), 100_000, durability="durable")
        assert [outcome.kind for outcome in again.commit()] == ["duplicate"] * 20
        node.daemon.kill()
        node.daemon.start()
        # The first call after a restart may find the old connection.
        with pytest.raises((kvtier.Unavailable, kvtier.Indeterminate)):
            client.acquire(space, keys(20))
        assert len(client.acquire_start(space, keys(20), min_tier="nvme").wait(PATIENCE)) == 20
        with client.acquire(space, keys(20)) as acquired:
            assert [bytes(block) for block in acquired] == contents


def test_what_is_not_in_host_memory_is_named_and_not_lent(start) -> None:
    node = Node(start(), "cold")
    space = node.space(4096)
    node.client.put(space, keys(2), blocks(2, 4096), durability="durable")
    node.daemon.kill()
    node.daemon.start()
    with node.local() as client:
        with client.acquire(space, keys(2), min_tier="nvme") as cold:
            assert [(block.tier, block.nbytes) for block in cold] == [("nvme", 0)] * 2 and cold.in_host == 0
            with pytest.raises(BufferError, match='min_tier="host"'):
                memoryview(cold[0])
        with client.acquire(space, keys(2)) as warm:
            assert [block.tier for block in warm] == ["host", "host"] and warm.in_host == 2


def test_a_started_acquire_is_polled_and_a_dropped_one_gives_its_lease_back(node: Node) -> None:
    space, contents = node.space(4096), blocks(50, 4096)
    with node.local() as client:
        store(client, space, keys(50), contents)
        pending = client.acquire_start(space, keys(50))
        acquired = pending.wait(PATIENCE)
        assert pending.poll() is acquired and pending.wait(0) is acquired and pending.ready()
        assert [bytes(block) for block in acquired] == contents
        acquired.release()
        for _ in range(100):
            client.acquire_start(space, keys(50))
        # Behind all of them in their queue.
        client.acquire_start(space, keys(1)).wait(PATIENCE).release()
        client.acquire_start(space, keys(1), min_tier="nvme").wait(PATIENCE).release()


def test_a_started_commit_happens_even_when_nobody_asks(node: Node) -> None:
    space = node.space(4096)
    with node.local(threads=1) as client:
        reservation = client.reserve(space, keys(2), 4096)
        for index, content in enumerate(blocks(2, 4096)):
            reservation.write(index, [content])
        reservation.commit_start([0])
        assert [outcome.kind for outcome in reservation.commit_start([1]).wait(PATIENCE)] == ["stored"]
        assert len(client.acquire(space, keys(2))) == 2


def test_a_started_call_raises_what_it_would_have_raised(node: Node) -> None:
    with node.local() as client:
        pending = client.acquire_start(bytes(32), [b"a"])
        for _ in range(2):
            with pytest.raises(kvtier.NotFound):
                pending.wait(PATIENCE)
        with pytest.raises(kvtier.NotFound):
            pending.poll()


def test_started_calls_are_bounded(start) -> None:
    node = Node(start(), "bounded")
    space = node.space(4096)
    with node.local(threads=1) as client:
        node.daemon.pause()
        try:
            pending = []
            with pytest.raises(kvtier.Exhausted) as raised:
                for _ in range(2000):
                    pending.append(client.acquire_start(space, [b"a"]))
        finally:
            node.daemon.resume()
        assert raised.value.retry_after == pytest.approx(0.01)
        assert 1024 <= len(pending) <= 1025
        assert len(pending[-1].wait(PATIENCE)) == 0


def test_an_unanswered_call_can_be_waited_for_with_a_bound(start) -> None:
    node = Node(start(), "late")
    space = node.space(4096)
    with node.local() as client:
        node.daemon.pause()
        try:
            pending = client.acquire_start(space, [b"a"])
            assert not pending.ready() and pending.poll() is None
            with pytest.raises(kvtier.TimedOut):
                pending.wait(0.02)
        finally:
            node.daemon.resume()
        assert len(pending.wait(PATIENCE)) == 0


def test_segments_gather_and_scatter_a_chain_in_one_call(node: Node) -> None:
    """As engines need it: a block is a piece of every layer's tensor."""
    layers, count, piece = 6, 40, 1000
    space = node.space(layers * piece)
    tensors = [np.frombuffer(os.urandom(64 * piece), np.uint8).reshape(64, piece) for _ in range(layers)]
    pages = np.random.default_rng(7).permutation(64)[:count]
    rows = [
        (block, layer * piece, layer, page * piece, piece) for block, page in enumerate(pages) for layer in range(layers)
    ]
    segments = np.array(rows, np.uint64)
    with node.local() as client:
        reservation = client.reserve(space, keys(count), layers * piece)
        assert reservation.write_all(tensors, segments) == layers * count * piece
        assert all(outcome.ok for outcome in reservation.commit())
        restored = [np.zeros((64, piece), np.uint8) for _ in range(layers)]
        with client.acquire(space, keys(count)) as acquired:
            expected = b"".join(tensor[pages[0]].tobytes() for tensor in tensors)
            assert bytes(acquired[0]) == expected
            assert acquired.read_all(restored, segments.astype(np.int64)) == layers * count * piece
            for tensor, copy in zip(tensors, restored):
                assert np.array_equal(tensor[pages], copy[pages])
                assert not copy[np.setdiff1d(np.arange(64), pages)].any()
            halves = [bytearray(layers * piece // 2), np.zeros(layers * piece // 4, np.uint16)]
            assert acquired.read_into(0, halves) == layers * piece
            assert bytes(halves[0]) + halves[1].tobytes() == expected


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ((0, 0, 0, 0, 101), "its 100 bytes"),
        ((0, 50, 0, 0, 51), "its 100 bytes"),
        ((0, 0, 0, 50, 51), "its 100 bytes"),
        ((0, 2**64 - 1, 0, 0, 2), "its 100 bytes"),
        ((1, 0, 0, 0, 1), "block 1 in row 0"),
        ((0, 0, 1, 0, 1), "buffer 1 in row 0"),
        ((2**63, 0, 0, 0, 1), "block"),
    ],
)
def test_no_segment_reaches_outside(node: Node, row: tuple[int, ...], says: str) -> None:
    space, content = node.space(100), os.urandom(100)
    good = (0, 0, 0, 0, 100)
    with node.local() as client:
        reservation = client.reserve(space, keys(1), 100)
        reservation.write(0, [content])
        for rows in ([row], [good, row]):
            segments = np.array(rows, np.uint64)
            with pytest.raises(kvtier.InvalidArgument) as raised:
                reservation.write_all([bytes(100)], segments)
            assert says.replace("row 0", f"row {len(rows) - 1}") in str(raised.value)
        # Nothing was moved, not even by the good row before it.
        assert reservation.commit()[0].crc32 == zlib.crc32(content)
        target = bytearray(100)
        with client.acquire(space, keys(1)) as acquired, pytest.raises(kvtier.InvalidArgument):
            acquired.read_all([target], np.array([good, row], np.uint64))
        assert not any(target)


def test_buffers_that_cannot_be_used_are_refused(node: Node) -> None:
    space = node.space(100)
    with node.local() as client:
        reservation = client.reserve(space, keys(1), 100)
        with pytest.raises(kvtier.InvalidArgument, match="come to 100 bytes"):
            reservation.write(0, [bytes(60), bytes(41)])
        with pytest.raises(BufferError, match="strided"):
            reservation.write(0, [np.zeros((100, 2), np.uint8)[:, 0]])
        with pytest.raises(TypeError):
            reservation.write(0, ["text"])
        with pytest.raises(kvtier.InvalidArgument, match="rows of five"):
            reservation.write_all([bytes(100)], np.zeros(4, np.uint64))
        with pytest.raises(kvtier.InvalidArgument, match="rows of five"):
            reservation.write_all([bytes(100)], np.zeros((1, 5), np.float64))
        with pytest.raises(kvtier.InvalidArgument, match="rows of five"):
            reservation.write_all([bytes(100)], np.zeros((1, 5), np.uint32))
        reservation.write(0, [bytes(100)])
        reservation.commit()
        with client.acquire(space, keys(1)) as acquired:
            with pytest.raises(BufferError, match="read-only"):
                acquired.read_into(0, [bytes(100)])
            with pytest.raises(kvtier.InvalidArgument, match="come to 100 bytes"):
                acquired.read_into(0, [bytearray(99)])
            with pytest.raises(IndexError):
                acquired.read_into(1, [bytearray(100)])


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda c, s: c.reserve(s, [b"a"], [1, 2]), "lengths"),
        (lambda c, s: c.reserve(s, [b"a"], 1, durability="maybe"), "durability"),
        (lambda c, s: c.reserve(s, [], 1), "keys"),
        (lambda c, s: c.reserve(s, [b"a"], 1, parent=b""), "parent"),
        (lambda c, s: c.acquire(s[:31], [b"a"]), "space"),
        (lambda c, s: c.acquire(s, [b"a"], min_tier="hbm"), "min_tier"),
        (lambda c, s: c.acquire(s, [b"a"], lease=float("nan")), "lease"),
        (lambda c, s: c.acquire_start(s, [b"a"], lease=-1), "lease"),
    ],
)
def test_bad_input_names_its_field(node: Node, call, field: str) -> None:
    with node.local() as client, pytest.raises(kvtier.InvalidArgument) as raised:
        call(client, node.space(100))
    assert raised.value.field == field and raised.value.remedy


def test_settings_that_cannot_work_are_named(node: Node) -> None:
    for options, field in [({"role": "admin"}, "role"), ({"threads": 0}, "threads"), ({"wait_timeout": 0}, "wait_timeout")]:
        with pytest.raises(kvtier.InvalidArgument) as raised:
            node.local(**options)
        assert raised.value.field == field
    with pytest.raises(kvtier.Unavailable):
        kvtier.LocalClient("nobody-listens.sock", tenant="t")
    with pytest.raises(TypeError):
        kvtier.LocalClient(node.daemon.local)


def test_a_reader_cannot_reserve(node: Node) -> None:
    space = node.space(100)
    with node.local(role="reader") as client, pytest.raises(kvtier.Denied):
        client.reserve(space, [b"a"], 100)


def test_a_closed_client_refuses_and_what_it_lent_lives_on(node: Node) -> None:
    space = node.space(100)
    client = node.local()
    store(client, space, keys(1), [b"y" * 100])
    acquired = client.acquire(space, keys(1))
    client.close()
    with pytest.raises(kvtier.Error, match="closed"):
        client.acquire(space, keys(1))
    assert bytes(acquired[0]) == b"y" * 100 and acquired.still_valid()
