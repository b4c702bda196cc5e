"""Rows of a pool are stored and loaded by native threads, straight between the pool and the daemon's memory."""

from __future__ import annotations

import ctypes
import os

import kvtier
import numpy as np
import pytest
from conftest import PATIENCE, Node, blocks, keys, store

STRIDE = 8192
ROW = 6000


def pool_of(count: int) -> tuple[np.ndarray, kvtier.Pool]:
    """A pool of rows that are padded to their stride."""
    memory = np.frombuffer(bytearray(os.urandom(count * STRIDE)), np.uint8).reshape(count, STRIDE)
    return memory, kvtier.Pool(memory, stride=STRIDE, row_bytes=ROW)


def test_rows_come_back_as_they_went_and_their_padding_is_left_alone(node: Node) -> None:
    space = node.space(ROW)
    with node.local() as client:
        memory, pool = pool_of(8)
        before = memory.copy()
        outcomes = pool.store_start(client, space, keys(3), [5, 0, 2]).wait(PATIENCE)
        assert [outcome.kind for outcome in outcomes] == ["stored"] * 3
        with client.acquire(space, keys(3)) as found:
            assert [bytes(block) for block in found] == [before[row, :ROW].tobytes() for row in (5, 0, 2)]

        memory[:] = 0
        loaded = pool.load_start(client, space, keys(3), [7, 1, 4]).wait(PATIENCE)
        assert (loaded.count, loaded.reason) == (3, None)
        for row, came_from in ((7, 5), (1, 0), (4, 2)):
            assert (memory[row, :ROW] == before[came_from, :ROW]).all()
            assert not memory[row, ROW:].any()
        assert not memory[[0, 2, 3, 5, 6]].any()


def test_a_load_says_how_far_it_came_and_why(node: Node) -> None:
    space = node.space(ROW)
    with node.local() as client:
        memory, pool = pool_of(4)
        pool.store_start(client, space, keys(2), [0, 1]).wait(PATIENCE)
        memory[2:] = 0
        loaded = pool.load_start(client, space, [keys(2)[1], b"nobody", keys(2)[0]], [2, 3, 3]).wait(PATIENCE)
        assert (loaded.count, loaded.reason) == (1, "never_stored")
        assert (memory[2, :ROW] == memory[1, :ROW]).all()
        assert not memory[3].any()


def test_a_rotten_block_is_not_loaded(node: Node) -> None:
    space = node.space(ROW)
    with node.local() as client:
        # Durable: its write-back, which would find the change first and drop the block, is over with the commit.
        reservation = client.reserve(space, keys(2), ROW, durability="durable")
        for index, content in enumerate(blocks(2, ROW)):
            reservation.write(index, [content])
        at = np.frombuffer(reservation[1], np.uint8).__array_interface__["data"][0]
        reservation.commit()
        ctypes.memset(at + 17, 0xFF, 2)
        ctypes.memset(at + 19, 0x00, 2)
        memory, pool = pool_of(2)
        before = memory.copy()
        loaded = pool.load_start(client, space, keys(2), [0, 1]).wait(PATIENCE)
        assert (loaded.count, loaded.reason) == (1, "corrupt")
        assert (memory[1] == before[1]).all()


def test_what_follows_a_refused_block_is_not_stored(start) -> None:
    daemon = start(local__client_bytes_max="1MiB")
    node = Node(daemon, "refused")
    with node.client, node.local() as client:
        space = node.space(128 << 10)
        pool = kvtier.Pool(bytearray(16 * (128 << 10)), stride=128 << 10, row_bytes=128 << 10)
        outcomes = pool.store_start(client, space, keys(16), list(range(16))).wait(PATIENCE)
        kinds = [outcome.kind for outcome in outcomes]
        room = kinds.index("declined")
        assert room > 0
        assert kinds == ["stored"] * room + ["declined"] * (16 - room)
        with client.acquire(space, keys(16)) as found:
            assert len(found) == room


def test_what_is_there_already_counts_as_stored(node: Node) -> None:
    space = node.space(ROW)
    with node.local() as client:
        store(client, space, keys(2), blocks(2, ROW))
        _, pool = pool_of(3)
        outcomes = pool.store_start(client, space, keys(3), [0, 1, 2]).wait(PATIENCE)
        assert [outcome.kind for outcome in outcomes] == ["duplicate", "duplicate", "stored"]
        assert all(outcome.ok for outcome in outcomes)


def test_rows_that_are_not_there_are_refused_before_anything_moves(node: Node) -> None:
    space = node.space(ROW)
    with node.local() as client:
        memory, pool = pool_of(4)
        for rows in ([0, 4], [0], [0, 2**40]):
            with pytest.raises(kvtier.InvalidArgument, match="rows"):
                pool.load_start(client, space, keys(2), rows)
        with pytest.raises(kvtier.InvalidArgument, match="row_bytes"):
            kvtier.Pool(memory, stride=8, row_bytes=9)
        with pytest.raises(BufferError, match="read-only"):
            kvtier.Pool(b"12345678", stride=8, row_bytes=8)


def test_a_closed_pool_lets_go_of_the_buffer(node: Node) -> None:
    space = node.space(ROW)
    with node.local() as client:
        held = bytearray(4 * STRIDE)
        pool = kvtier.Pool(held, stride=STRIDE, row_bytes=ROW)
        pool.store_start(client, space, keys(4), [0, 1, 2, 3]).wait(PATIENCE)
        with pytest.raises(BufferError):
            held.clear()
        pool.close()
        held.clear()
        with pytest.raises(kvtier.Error, match="closed"):
            pool.load_start(client, space, keys(1), [0])


def test_runs_with_gaps_are_all_found_and_leased(node: Node) -> None:
    space = node.space(64)
    with node.local() as client:
        there = [keys(9)[index] for index in (1, 2, 5, 6, 7)]
        store(client, space, there, blocks(5, 64))
        runs, end = client.acquire_runs_start(space, keys(9)).wait(PATIENCE)
        assert [(at, len(run)) for at, run in runs] == [(1, 2), (5, 3)]
        assert end == 9
        assert node.client.status()["leases"] >= 2
        for _, run in runs:
            run.release()
        runs, end = client.acquire_runs_start(space, keys(9), gaps_max=0).wait(PATIENCE)
        assert (runs, end) == ([], 1), "looked no further than the first gap"
