"""Views on the daemon's memory: no copies, and nothing that crashes or lies when they outlive what they show."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import kvtier
import numpy as np
import pytest
from conftest import PATIENCE, Daemon, Node, blocks, keys, store


def address(buffer: object) -> int:
    return int(np.frombuffer(buffer, np.uint8).__array_interface__["data"][0])


def mappings() -> list[tuple[int, int]]:
    """Where the daemon's memory lies in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    found = [re.match(r"(\w+)-(\w+) .*memfd:kvtier", line) for line in lines]
    return [(int(match[1], 16), int(match[2], 16)) for match in found if match]


def anonymous_kib() -> int:
    match = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match
    return int(match[1])


def test_views_lie_in_the_mapping_and_two_clients_see_the_same_memory(node: Node) -> None:
    space = node.space(1 << 20)
    with node.local() as writer, node.local(role="reader") as reader:
        reservation = writer.reserve(space, keys(1), 1 << 20)
        written = np.frombuffer(reservation[0], np.uint8)
        at = address(reservation[0])
        assert any(first <= at and at + (1 << 20) <= last for first, last in mappings())
        written[:] = 7
        del written
        reservation.commit()
        mine, theirs = writer.acquire(space, keys(1)), reader.acquire(space, keys(1))
        assert address(mine[0]) == at != address(theirs[0])
        assert any(first <= address(theirs[0]) < last for first, last in mappings())
        # A writer that breaks its word is seen through the other mapping at once, and found by the checksum.
        ctypes.memset(at + 5, 9, 1)
        assert bytes(theirs[0])[4:7] == bytes([7, 9, 7])
        with pytest.raises(kvtier.Corrupt):
            theirs.verify()
        with pytest.raises(kvtier.Corrupt):
            theirs[0].verify()


def test_reading_a_gibibyte_takes_no_memory(start) -> None:
    node = Node(start(), "rss")
    space = node.space(1 << 20)
    with node.local() as client:
        store(client, space, keys(16), blocks(16, 1 << 20))
        target = bytearray(1 << 20)

        def read() -> int:
            with client.acquire(space, keys(16)) as acquired:
                return sum(acquired.read_into(index, [target]) for index in range(16))

        read()
        before = anonymous_kib()
        assert sum(read() for _ in range(64)) == 1 << 30
        assert anonymous_kib() - before < 2048


def test_numpy_and_dlpack_see_the_same_bytes_in_place(node: Node) -> None:
    space, content = node.space(8192), os.urandom(8192)
    with node.local() as client:
        store(client, space, keys(1), [content])
        block = client.acquire(space, keys(1))[0]
        array, tensor = np.frombuffer(block, np.float16), np.from_dlpack(block)
        assert array.tobytes() == tensor.tobytes() == bytes(memoryview(block)) == content
        assert tensor.dtype == np.uint8 and tensor.shape == (8192,)
        assert address(block) == tensor.__array_interface__["data"][0]
        assert not tensor.flags.writeable and not array.flags.writeable and memoryview(block).readonly
        with pytest.raises(TypeError):
            memoryview(block)[0] = 1
        assert (memoryview(block).format, memoryview(block).nbytes, block.__dlpack_device__()) == ("B", 8192, (1, 0))
        got = node.client.get(space, keys(1))[0]
        assert isinstance(got, kvtier.Block) and np.from_dlpack(got).tobytes() == content


def test_a_slot_is_written_through_dlpack(node: Node) -> None:
    space = node.space(4096)
    with node.local() as client:
        reservation = client.reserve(space, keys(1), 4096)
        tensor = np.from_dlpack(reservation[0])
        tensor[:] = np.arange(4096) % 251
        with pytest.raises(BufferError, match="1 views"):
            reservation.commit()
        del tensor
        gc.collect()
        reservation.commit()
        assert bytes(client.acquire(space, keys(1))[0]) == bytes(index % 251 for index in range(4096))


def test_dlpack_without_versions_is_refused_for_what_is_read_only(node: Node) -> None:
    space = node.space(4096)
    with node.local() as client:
        reservation = client.reserve(space, keys(1), 4096)
        assert "dltensor" in repr(reservation[0].__dlpack__())
        gc.collect()
        reservation.write(0, [bytes(4096)])
        reservation.commit()
        block = client.acquire(space, keys(1))[0]
        with pytest.raises(BufferError, match="max_version"):
            block.__dlpack__()
        for refused in ({"stream": 1}, {"dl_device": (2, 0)}, {"copy": True}):
            with pytest.raises(BufferError):
                block.__dlpack__(max_version=(1, 0), **refused)
        # A capsule that nobody takes out frees what it holds.
        before = sys.getrefcount(block)
        for _ in range(1000):
            block.__dlpack__(max_version=(1, 3), dl_device=(1, 0), copy=False)
        assert sys.getrefcount(block) == before


def test_a_slot_that_may_still_be_written_is_neither_committed_nor_aborted(node: Node) -> None:
    space = node.space(100)
    with node.local() as client:
        reservation = client.reserve(space, keys(2), 100)
        reservation.write(0, [bytes(100)])
        view = memoryview(reservation[1])
        for call in (reservation.commit, reservation.commit_start, reservation.abort):
            with pytest.raises(BufferError, match="slot 1 can still be written through 1 views"):
                call()
        assert [outcome.kind for outcome in reservation.commit([0])] == ["stored"]
        view[:] = b"v" * 100
        view.release()
        assert [outcome.kind for outcome in reservation.commit([1])] == ["stored"]
        with pytest.raises(BufferError, match="committed or given up"):
            memoryview(reservation[1])
        assert bytes(client.acquire(space, keys(2))[1]) == b"v" * 100


def test_what_is_not_committed_is_given_up_with_its_last_view(node: Node) -> None:
    space = node.space(100)
    with node.local() as client:
        with client.reserve(space, keys(1), 100) as reservation:
            view = memoryview(reservation[0])
        del reservation
        gc.collect()
        assert client.reserve(space, keys(1), 100)[0].reason == "under_way"
        view[:] = b"x" * 100
        view.release()
        del view
        gc.collect()
        assert client.reserve(space, keys(1), 100)[0].kind == "write"


def test_views_outlive_lease_client_and_daemon(start) -> None:
    node = Node(start(), "outlive")
    space, content = node.space(4096), os.urandom(4096)
    client = node.local()
    store(client, space, keys(1), [content])
    acquired = client.acquire(space, keys(1))
    view, array, tensor = memoryview(acquired[0]), np.frombuffer(acquired[0], np.uint8), np.from_dlpack(acquired[0])
    acquired.release()
    client.close()
    node.daemon.kill()
    del acquired, client
    gc.collect()
    assert view.tobytes() == array.tobytes() == tensor.tobytes() == content
    del view, array
    gc.collect()
    assert tensor.tobytes() == content


def test_reused_memory_is_told_from_the_blocks_own(start) -> None:
    node = Node(start(host__bytes="16MiB", nvme__enabled="false"), "reuse")
    space = node.space(1 << 20)
    with node.local() as client, node.local() as other:
        store(client, space, [b"old"], [b"o" * (1 << 20)])
        acquired = client.acquire(space, [b"old"])
        held = client.acquire(space, [b"old"])
        block = acquired[0]
        acquired.release()
        client.flush()
        for index in range(40):
            store(other, space, [b"new%d" % index], [b"n" * (1 << 20)])
        # Somebody else still leases it.
        assert acquired.still_valid() and bytes(memoryview(block)[:3]) == b"ooo"
        held.release()
        client.flush()
        for index in range(40):
            store(other, space, [b"newer%d" % index], [b"n" * (1 << 20)])
        assert not acquired.still_valid() and not block.still_valid()
        memoryview(block).tobytes()
        with pytest.raises(kvtier.Stale, match="throw the copy away"):
            acquired.read_into(0, [bytearray(1 << 20)])


def test_other_threads_run_while_one_waits(start) -> None:
    node = Node(start(), "gil")
    space = node.space(4096)
    with node.local() as client:
        calls = [
            lambda: client.acquire(space, [b"a"]),
            lambda: client.acquire_start(space, [b"a"]).wait(),
            lambda: node.client.lookup(space, [b"a"]),
            lambda: node.client.get(space, [b"a"]),
        ]
        for call in calls:
            answered = threading.Event()

            def wait(call=call) -> None:
                call()
                answered.set()

            node.daemon.pause()
            waiting = threading.Thread(target=wait)
            waiting.start()
            # Only a released GIL lets this loop, and the resume after it, happen while the other thread waits.
            progress = sum(1 for _ in range(1_000_000))
            assert progress == 1_000_000 and not answered.is_set()
            node.daemon.resume()
            waiting.join(PATIENCE)
            assert answered.is_set()


def test_copies_run_without_the_gil(start) -> None:
    node = Node(start(host__extent_bytes="40MiB", host__bytes="128MiB", nvme__enabled="false"), "copies")
    space = node.space(32 << 20)
    with node.local() as client:
        store(client, space, keys(1), [bytes(32 << 20)])
        with client.acquire(space, keys(1)) as acquired:
            target, done, most = bytearray(32 << 20), threading.Event(), 0
            segments = np.tile(np.array([0, 0, 0, 0, 32 << 20], np.uint64), (100, 1))

            def copy() -> None:
                acquired.read_all([target], segments)
                done.set()

            copying = threading.Thread(target=copy)
            copying.start()
            while not done.is_set():
                most += 1
            copying.join(PATIENCE)
            # 3 GiB in one call: with the GIL held, this thread would have had no turn in it.
            assert most > 1000


def test_a_killed_daemon_is_a_clear_error_and_the_next_one_is_used(start) -> None:
    node = Node(start(), "restart")
    space, contents = node.space(4096), blocks(3, 4096)
    with node.local() as client:
        store(client, space, keys(3), contents, durability="durable")
        lost = client.reserve(space, [b"lost"], 4096)
        pinned = client.acquire(space, keys(3))
        node.daemon.kill()
        for call in (
            lambda: client.acquire(space, keys(3)),
            lambda: client.reserve(space, [b"x"], 10),
            lambda: client.acquire_start(space, keys(3)).wait(PATIENCE),
            lambda: node.client.lookup(space, keys(3)),
            lambda: node.client.put(space, [b"x"], [b"y"]),
        ):
            with pytest.raises((kvtier.Unavailable, kvtier.Indeterminate)) as raised:
                call()
            assert raised.value.retry_after is not None
        node.daemon.start()
        with client.acquire(space, keys(3)) as acquired:
            assert [bytes(block) for block in acquired] == contents
        with pytest.raises(kvtier.Unavailable, match="lost with their connection"):
            lost.commit()
        assert [bytes(block) for block in pinned] == contents
        assert len(node.client.lookup(space, keys(3))) == 3


def test_a_hung_daemon_is_a_timeout(start) -> None:
    node = Node(start(), "hung")
    space = node.space(4096)
    with node.local(wait_timeout=0.2, call_timeout=0.2) as client, kvtier.Client(node.daemon.unix, call_timeout=0.2) as grpc:
        node.daemon.pause()
        try:
            with pytest.raises(kvtier.TimedOut) as raised:
                client.acquire(space, [b"a"])
            assert isinstance(raised.value, TimeoutError)
            with pytest.raises(kvtier.TimedOut):
                grpc.lookup(space, [b"a"])
            with pytest.raises(kvtier.Indeterminate):
                grpc.delete(space, [b"a"])
        finally:
            node.daemon.resume()


FORKED = """
import os, sys, gc
import kvtier
client = kvtier.LocalClient(sys.argv[1], tenant="t")
grpc = kvtier.Client(sys.argv[2])
space = bytes.fromhex(sys.argv[3])
acquired, reservation = client.acquire(space, [b"k0"]), client.reserve(space, [b"mine"], 100)
block, pending = acquired[0], client.acquire_start(space, [b"k0"])
pending.wait()
child = os.fork()
if child == 0:
    refused = 0
    for call in (
        lambda: client.acquire(space, [b"k0"]), lambda: client.flush(), lambda: grpc.lookup(space, [b"k0"]),
        lambda: grpc.close(), lambda: acquired.still_valid(), lambda: acquired[0], lambda: memoryview(block),
        lambda: block.still_valid(), lambda: memoryview(reservation[0]), lambda: reservation.commit(),
        lambda: reservation.abort(), lambda: pending.poll(), lambda: client.acquire_start(space, [b"k0"]),
        lambda: list(acquired), lambda: acquired.release(), lambda: block.__dlpack__(max_version=(1, 0)),
    ):
        try:
            call()
        except kvtier.Forked as error:
            refused += "after forking" in str(error)
    # Cleaning up must leave the parent's lease and reservation alone, and end.
    del call, client, grpc, acquired, reservation, block, pending
    gc.collect()
    fresh = kvtier.LocalClient(sys.argv[1], tenant="t")
    refused += len(fresh.acquire(space, [b"k0"]))
    sys.exit(refused)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 17, status
reservation.write(0, [bytes(100)])
assert [outcome.kind for outcome in reservation.commit()] == ["stored"]
assert acquired.still_valid() and bytes(block) == b"f" * 100
"""


def test_a_fork_can_use_nothing_and_harms_nothing(node: Node) -> None:
    space = node.space(100)
    with node.local() as client:
        store(client, space, keys(1), [b"f" * 100])
    arguments = [sys.executable, "-c", FORKED, node.daemon.local, node.daemon.unix, space.hex()]
    ended = subprocess.run(arguments, timeout=PATIENCE, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


# Whoever starts the tests in the background may have them ignore it.
INTERRUPTED = """
import signal
import sys
import kvtier
signal.signal(signal.SIGINT, signal.default_int_handler)
client = kvtier.Client(sys.argv[1], call_timeout=60.0)
input()
print("waiting", flush=True)
try:
    client.lookup(bytes(32), [b"a"])
except KeyboardInterrupt:
    sys.exit(42)
"""


def test_ctrl_c_ends_a_wait(start) -> None:
    daemon: Daemon = start()
    arguments = [sys.executable, "-c", INTERRUPTED, daemon.unix]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    with process:
        daemon.pause()
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"waiting\n"
        # It sleeps in nothing but the call now.
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0] != "S":
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 42
    daemon.resume()
