"""LocalClient.load_start and reserve_start: what runs without the GIL from end to end."""

from __future__ import annotations

import gc
import os
import weakref

import kvtier
import numpy as np
import pytest
from conftest import PATIENCE, Node, blocks, keys, store

PIECE = 1000
PAGES = 32


def segments_of(count: int, layers: int, first_page: int = 0) -> np.ndarray:
    """Block after block into page after page, a piece of each in every layer's buffer."""
    rows = [
        (block, layer * PIECE, layer, (first_page + block) * PIECE, PIECE)
        for layer in range(layers)
        for block in range(count)
    ]
    return np.array(rows, np.int64)


def layers_of(count: int) -> list[np.ndarray]:
    return [np.zeros((PAGES, PIECE), np.uint8) for _ in range(count)]


def joined(layers: list[np.ndarray], page: int) -> bytes:
    return b"".join(layer[page].tobytes() for layer in layers)


@pytest.mark.parametrize("run_blocks", [1, 7, 64])
def test_a_load_brings_every_block_run_by_run(start, run_blocks: int) -> None:
    node = Node(start(), "runs")
    space, names, contents = node.space(2 * PIECE), keys(20), blocks(20, 2 * PIECE)
    with node.local() as client:
        store(client, space, names, contents, durability="durable")
    node.daemon.kill()
    node.daemon.start()
    layers = layers_of(2)
    with node.local() as client:
        for _ in range(2):  # from the disk, then from host memory
            pending = client.load_start(space, names, layers, segments_of(20, 2, first_page=5), run_blocks=run_blocks)
            loaded = pending.wait(PATIENCE)
            assert (loaded.blocks, loaded.nbytes, loaded.why, loaded.error) == (20, 20 * 2 * PIECE, None, None)
            assert loaded.seconds > 0
            assert [joined(layers, 5 + index) for index in range(20)] == contents
            assert not any(layer[:5].any() or layer[25:].any() for layer in layers)
            for layer in layers:
                layer[:] = 0


@pytest.mark.parametrize("run_blocks", [1, 4, 64])
def test_a_load_keeps_what_came_before_a_missing_block(node: Node, run_blocks: int) -> None:
    space, contents = node.space(PIECE), blocks(6, PIECE)
    (layer,) = layers = layers_of(1)
    with node.local() as client:
        store(client, space, keys(6), contents)
        wanted = [*keys(6), b"gone", b"gone too"]
        loaded = client.load_start(space, wanted, layers, segments_of(8, 1), run_blocks=run_blocks).wait(PATIENCE)
    assert (loaded.blocks, loaded.nbytes, loaded.error) == (6, 6 * PIECE, None)
    assert loaded.why is not None and "block 6 of 8 is gone" in loaded.why and "never_stored" in loaded.why
    assert [layer[index].tobytes() for index in range(6)] == contents and not layer[6:].any()


def test_a_load_that_fails_says_so_and_raises_nothing(start) -> None:
    node = Node(start(), "fails")
    space = node.space(PIECE)
    with node.local(wait_timeout=0.2) as client:
        store(client, space, keys(1), blocks(1, PIECE))
        loaded = client.load_start(bytes(32), keys(1), layers_of(1), segments_of(1, 1)).wait(PATIENCE)
        assert isinstance(loaded.error, kvtier.NotFound) and loaded.why and loaded.blocks == 0
        node.daemon.kill()
        loaded = client.load_start(space, keys(1), layers_of(1), segments_of(1, 1)).wait(PATIENCE)
        assert isinstance(loaded.error, (kvtier.Unavailable, kvtier.Indeterminate)) and loaded.blocks == 0
        assert "then kvtierd" in repr(loaded)


def test_a_daemon_that_was_restarted_unnoticed_answers_a_load_and_a_reservation(start) -> None:
    node = Node(start(), "again")
    space, contents = node.space(PIECE), blocks(1, PIECE)
    (layer,) = layers = layers_of(1)
    with node.local() as client:
        store(client, space, keys(1), contents, durability="durable")
        node.daemon.kill()
        node.daemon.start()
        assert client.load_start(space, keys(1), layers, segments_of(1, 1)).wait(PATIENCE).blocks == 1
        assert layer[0].tobytes() == contents[0]
        node.daemon.kill()
        node.daemon.start()
        reservation = client.reserve_start(space, keys(2), PIECE).wait(PATIENCE)
        assert [slot.kind for slot in reservation] == ["duplicate", "write"]


def test_a_load_without_time_begins_no_further_run(node: Node) -> None:
    space = node.space(PIECE)
    with node.local() as client:
        store(client, space, keys(4), blocks(4, PIECE))
        loaded = client.load_start(space, keys(4), layers_of(1), segments_of(4, 1), timeout=0.0).wait(PATIENCE)
    assert loaded.blocks == 0 and loaded.why is not None and "longer than allowed" in loaded.why


@pytest.mark.parametrize("row", [(1, 0, 0, 0, 1), (0, 0, 1, 0, 1), (0, 0, 0, PAGES * PIECE, 1), (0, 2**63 - 1, 0, 0, 2)])
def test_no_load_reaches_outside_its_buffers(node: Node, row: tuple[int, ...]) -> None:
    space = node.space(PIECE)
    with node.local() as client:
        store(client, space, keys(1), blocks(1, PIECE))
        rows = np.array([(0, 0, 0, 0, PIECE), row], np.int64)
        (layer,) = layers = layers_of(1)
        if row[1]:  # how long a block is shows when it is there
            loaded = client.load_start(space, keys(1), layers, rows).wait(PATIENCE)
            assert isinstance(loaded.error, kvtier.InvalidArgument) and loaded.blocks == 0
        else:
            with pytest.raises(kvtier.InvalidArgument, match="row 1"):
                client.load_start(space, keys(1), layers, rows)
        assert not layer.any()


def test_buffers_stay_until_a_dropped_load_has_stopped(start) -> None:
    node = Node(start(), "dropped")
    space, contents = node.space(PIECE), blocks(1, PIECE)
    with node.local() as client:
        store(client, space, keys(1), contents)
        (layer,) = layers = layers_of(1)
        seen, alive = memoryview(layer).cast("B"), weakref.ref(layer)
        node.daemon.pause()
        pending = client.load_start(space, keys(1), layers, segments_of(1, 1))
        del layer, layers, pending
        gc.collect()
        assert alive() is not None
        node.daemon.resume()
        # Behind it: loads of one client with one thread would be in order, with several this one may overtake.
        while bytes(seen[:PIECE]) != contents[0]:
            client.load_start(space, keys(1), layers_of(1), segments_of(1, 1)).wait(PATIENCE)


def test_reservations_are_started_in_their_order_and_dropped_ones_are_given_up(node: Node) -> None:
    space = node.space(PIECE)
    with node.local() as client:
        first = client.reserve_start(space, keys(2), PIECE)
        second = client.reserve_start(space, keys(2), PIECE).wait(PATIENCE)
        assert [slot.reason for slot in second] == ["under_way"] * 2
        reservation = first.wait(PATIENCE)
        content = os.urandom(PIECE)
        for index in range(2):
            reservation.write(index, [content])
        assert all(outcome.ok for outcome in reservation.commit())
        dropped = client.reserve_start(space, keys(1, "other"), PIECE)
        dropped.wait(PATIENCE)
        del dropped
        gc.collect()
        client.flush()
        assert client.reserve_start(space, keys(1, "other"), PIECE).wait(PATIENCE)[0].kind == "write"
        with pytest.raises(kvtier.NotFound):
            client.reserve_start(bytes(32), keys(1), PIECE).wait(PATIENCE)
