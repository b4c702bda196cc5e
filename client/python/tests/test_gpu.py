"""kvtier.GpuMemory: KV memory lent to a daemon whose GPU is simulated."""

from __future__ import annotations

import json
import mmap
import os
import struct
import subprocess
import time
from collections.abc import Callable
from typing import Any

import kvtier
import numpy as np
import pytest
from conftest import PATIENCE, Daemon, binary, describe, keys

LAYERS, BLOCKS, TOKENS, HEADS, ELEMENTS = 3, 8, 16, 2, 8
SHAPE = (LAYERS, 2, BLOCKS, TOKENS, HEADS, ELEMENTS)


def handle(file: int) -> bytes:
    """How a file stands for GPU memory: process, descriptor, and no gate."""
    return struct.pack("<Ii8si", os.getpid(), file, b"KVTIERSF", -1).ljust(64, b"\0")


class Memory:
    """KV memory: layer, K or V, block, token, head, element."""

    def __init__(self) -> None:
        count = int(np.prod(SHAPE)) * 2
        self.file = os.memfd_create("kv")
        os.truncate(self.file, count)
        self.kv = np.frombuffer(mmap.mmap(self.file, count), dtype=np.uint16).reshape(SHAPE)

    def lend(self, client: kvtier.LocalClient, **changes: Any) -> kvtier.GpuMemory:
        layer, plane, block, token, head, _ = self.kv.strides
        layout = {
            "planes": 2,
            "tokens": TOKENS,
            "heads": HEADS,
            "head_elements": ELEMENTS,
            "element_bytes": 2,
            "block_count": BLOCKS,
            "block_stride": block,
            "plane_stride": plane,
            "token_stride": token,
            "head_stride": head,
        }
        surfaces = [(0, number * layer) for number in range(LAYERS)]
        return client.import_gpu_memory([handle(self.file)], surfaces, **(layout | changes))


@pytest.fixture
def gpu(start: Callable[..., Daemon]) -> Daemon:
    return start(hbm__workers="true", hbm__device="simulated")


def space_of(daemon: Daemon) -> bytes:
    with kvtier.Client(daemon.unix) as client:
        deadline = time.monotonic() + PATIENCE
        while client.status()["tiers"][0]["state"] == "absent":
            assert time.monotonic() < deadline, "the GPU is not open"
        return client.open_space("gpu", describe(1 << 20, tenant="test"))


def test_a_chain_is_saved_and_loaded_into_other_blocks_layer_by_layer(gpu: Daemon) -> None:
    space, one, other = space_of(gpu), Memory(), Memory()
    rng = np.random.default_rng(7)
    one.kv[:] = rng.integers(0, 65536, SHAPE, dtype=np.uint16)
    with kvtier.LocalClient(gpu.local, tenant="test") as client:
        lent = one.lend(client)
        assert (lent.block_nbytes, lent.layers) == (one.kv[:, :, 0].nbytes, LAYERS)
        outcomes = lent.save(space, keys(4), [5, 0, 7, 2])
        assert [outcome.kind for outcome in outcomes] == ["stored"] * 4
        assert [outcome.kind for outcome in lent.save_start(space, keys(4), [5, 0, 7, 2]).wait()] == ["duplicate"] * 4
        loading = other.lend(client).load(space, [*keys(4), b"no"], [1, 2, 3, 4, 0], layer_ends=[1, LAYERS])
        assert len(loading) == 4 and loading.miss is not None and loading.miss.index == 4
        assert loading.wait(0) is None and loading.wait(1) is None and loading.finish() is None
        assert (other.kv[:, :, [1, 2, 3, 4]] == one.kv[:, :, [5, 0, 7, 2]]).all()
        assert not other.kv[:, :, [0, 5, 6, 7]].any()
        lent.release()
        with pytest.raises(kvtier.Error, match="released"):
            lent.save(space, keys(1), [0])


def test_what_is_saved_into_gpu_memory_is_loaded_from_there(start: Callable[..., Daemon]) -> None:
    gpu = start(hbm__workers="true", hbm__device="simulated", hbm__bytes="1MiB", hbm__extent_bytes="1MiB")
    space, one, other = space_of(gpu), Memory(), Memory()
    one.kv[:] = np.random.default_rng(8).integers(0, 65536, SHAPE, dtype=np.uint16)
    with kvtier.LocalClient(gpu.local, tenant="test") as client:
        lent, into = one.lend(client), other.lend(client)
        lent.save(space, keys(2), [0, 1], to_pool=True)
        lent.save_start(space, keys(3)[2:], [2], parent=keys(2)[1], to_pool=True).wait()
        loading = into.load(space, keys(3), [5, 6, 7])
        assert loading.from_pool == 3 and loading.finish() is None
        assert (other.kv[:, :, [5, 6, 7]] == one.kv[:, :, [0, 1, 2]]).all()


def test_loads_and_saves_are_known_to_kvtier_why(gpu: Daemon) -> None:
    space, memory = space_of(gpu), Memory()
    with kvtier.LocalClient(gpu.local, tenant="test") as client:
        lent = memory.lend(client)
        lent.save(space, keys(3), [0, 1, 2], request="turn")
        lent.save_start(space, keys(3), [0, 1, 2], request="turn").wait()
        assert lent.load(space, keys(4), [4, 5, 6, 7], request="turn").finish() is None
    command = [str(binary().with_name("kvtier")), "--endpoint", gpu.unix, "--json", "why", "turn", "-t", "test"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env={}).stdout)[0]["notes"]
    told = [(note["call"], note["asked_blocks"], note["answered_blocks"], note["existing_blocks"]) for note in told]
    assert told == [("save", 3, 3, 0), ("save", 3, 0, 3), ("load", 4, 3, 0)]


def test_what_cannot_be_is_refused_by_its_name(gpu: Daemon) -> None:
    space, memory = space_of(gpu), Memory()
    with kvtier.LocalClient(gpu.local, tenant="test") as client:
        with pytest.raises(kvtier.InvalidArgument, match="layout.heads"):
            memory.lend(client, heads=0)
        with pytest.raises(kvtier.InvalidArgument, match="64 bytes"):
            client.import_gpu_memory([b"short"], [(0, 0)], tokens=1, heads=1, head_elements=1, element_bytes=2,
                                     block_count=1, block_stride=2, token_stride=2, head_stride=2)
        with pytest.raises(kvtier.InvalidArgument, match="gpu_uuid is GPU-12: the daemon has GPU-0"):
            memory.lend(client, gpu="GPU-12")
        memory.lend(client, gpu="00000000-0000-0000-0000-000000000001").release()
        with pytest.raises(kvtier.InvalidArgument, match=r"blocks\[0\] is 8"):
            memory.lend(client).save(space, keys(1), [BLOCKS])


def test_a_lost_gpu_is_an_outcome_and_the_host_path_goes_on(gpu: Daemon) -> None:
    space, memory = space_of(gpu), Memory()
    with kvtier.LocalClient(gpu.local, tenant="test") as client:
        lent = memory.lend(client)
        os.truncate(memory.file, 0)
        (outcome,) = lent.save(space, keys(1), [0])
        assert (outcome.kind, outcome.reason) == ("declined", "gpu_lost") and "host memory" in outcome.detail
        reservation = client.reserve(space, keys(1), 100)
        reservation.write(0, [bytes(100)])
        assert reservation.commit()[0].kind == "stored"
