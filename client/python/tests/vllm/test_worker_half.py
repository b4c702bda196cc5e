"""The worker half beside tensors of its own, with a real daemon and without vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import kvtier
import pytest
import torch
from kvtier.vllm import worker_half
from kvtier.vllm.geometry import GroupPlan, Pages, measure
from kvtier.vllm.settings import Settings
from kvtier.vllm.space import part_places
from kvtier.vllm.step import Load, Step, Store
from kvtier.vllm.worker_half import WorkerHalf

BLOCKS = 12
UNITS = [[[3], [7], [1]], [[2], [5], [9]]]
EMPTY = [[[4], [6], [8]], [[10], [11], [1]]]
KEYS = [b"a", b"b", b"c"]
PATIENCE = 60.0


class Link:
    """A connection that is there, or is not."""

    def __init__(self, client: kvtier.LocalClient | None) -> None:
        self.connected = client
        self.errors: list[BaseException] = []

    def client(self) -> kvtier.LocalClient | None:
        return self.connected

    def lost(self, client: Any, error: BaseException) -> None:
        self.errors.append(error)
        self.connected = None

    def say(self, what: str) -> None:
        pass


def tensors(seed: int) -> dict[str, torch.Tensor]:
    """Two groups: two layers of one size, and one of another."""
    torch.manual_seed(seed)
    small = {name: torch.randn(BLOCKS, 2, 16, 32).to(torch.bfloat16) for name in ("a", "b")}
    return small | {"c": torch.randn(BLOCKS, 1, 16, 32).to(torch.bfloat16)}


def measured(held: dict[str, torch.Tensor]) -> Pages:
    plans = [GroupPlan("FullAttentionSpec", 16, ("a", "b")), GroupPlan("SlidingWindowSpec", 16, ("c",))]
    return measure(held, plans, BLOCKS, 16, "LBHNC")


class Never:
    """An answer that does not come."""

    def ready(self) -> bool:
        return False

    def poll(self) -> None:
        return None

    def wait(self, timeout: float) -> None:
        raise kvtier.TimedOut("not yet")


class World:
    """Engines of two ranks on one daemon. Rank by rank they must be given the same steps."""

    def __init__(self, daemon: Any, name: str) -> None:
        self.caches = [tensors(1), tensors(2)]
        pages = [measured(held) for held in self.caches]
        self.parts = part_places({(0, rank): one.shape for rank, one in enumerate(pages)})
        sizes = tuple(size for one in pages for size in one.shape.part_bytes)
        with kvtier.Client(daemon.unix) as client:
            self.space = client.open_space(
                name, kvtier.SpaceDescription(tenant="t", model=name, tokens_per_block=16, part_bytes=sizes)
            )
        self.links = [Link(kvtier.LocalClient(daemon.local, tenant="t")) for _ in pages]
        settings = Settings.read({"data_directory": str(daemon.data), "reserve_wait_ms": 1000})
        self.halves = [
            WorkerHalf(settings, link, one, (0, rank))  # type: ignore[arg-type]
            for rank, (link, one) in enumerate(zip(self.links, pages, strict=True))
        ]

    def store(self, units: list[list[list[int]]] = UNITS, request: str = "r") -> None:
        for half in self.halves:
            half.reserve(Step(stores=[Store(request, self.space, KEYS, None, units)], parts=self.parts))
            half.fill()
            half._collect(wait=PATIENCE)

    def load(self, keys: list[bytes] = KEYS, units: list[list[list[int]]] = EMPTY) -> list[tuple[set[str], set[str]]]:
        ended = []
        for half in self.halves:
            half.start_loads(Step(loads=[Load("r", self.space, keys, units)], parts=self.parts))
            for one in half._loading:
                one.pending.wait(PATIENCE)
            ended.append(half.take_loaded())
        return ended

    def close(self) -> None:
        for half in self.halves:
            half.close()


@pytest.fixture
def world(shared_daemon: Any, request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(shared_daemon, request.node.name)
    yield world
    world.close()


def pages_of(cache: dict[str, torch.Tensor], units: list[list[list[int]]]) -> list[torch.Tensor]:
    layers = ("a", "b"), ("c",)
    return [
        cache[layer][block].clone()
        for names, group in zip(layers, units, strict=True)
        for layer in names
        for unit in group
        for block in unit
    ]


def test_every_rank_and_group_gets_its_own_bytes_back(world: World) -> None:
    before = [pages_of(cache, UNITS) for cache in world.caches]
    world.store()
    assert world.load() == [({"r"}, set())] * 2
    for cache, pages in zip(world.caches, before, strict=True):
        for old, new in zip(pages, pages_of(cache, EMPTY), strict=True):
            assert torch.equal(old, new)
        for old, new in zip(pages, pages_of(cache, UNITS), strict=True):
            assert torch.equal(old, new), "what was stored is still there"


def test_a_block_is_found_only_when_every_rank_has_stored_its_parts(world: World) -> None:
    world.halves[0].reserve(Step(stores=[Store("r", world.space, KEYS, None, UNITS)], parts=world.parts))
    world.halves[0].fill()
    world.halves[0]._collect(wait=PATIENCE)
    client = world.links[0].connected
    assert client is not None
    with client.acquire(world.space, KEYS) as found:
        assert len(found) == 0
    world.store()
    with client.acquire(world.space, KEYS) as found:
        assert len(found) == len(KEYS)


def test_of_several_groups_a_load_that_misses_a_block_fails_and_none_is_reported_twice(world: World) -> None:
    world.store()
    assert world.load([*KEYS[:2], b"never stored"]) == [({"r"}, {"r"})] * 2
    assert [half.take_report().loads["r"].units for half in world.halves] == [0] * 2  # type: ignore[union-attr]
    assert [half.take_loaded() for half in world.halves] == [(set(), set())] * 2
    assert all(link.errors == [] for link in world.links), "a miss says nothing about the daemon"


def test_of_one_group_a_load_that_misses_a_block_keeps_those_before_it(shared_daemon: Any) -> None:
    with kvtier.Client(shared_daemon.unix) as client:
        cache = {"a": torch.arange(BLOCKS * 1024, dtype=torch.float32).reshape(BLOCKS, 1, 16, 64)}
        pages = measure(cache, [GroupPlan("FullAttentionSpec", 16, ("a",))], BLOCKS, 16, "LBHNC")
        described = kvtier.SpaceDescription(
            tenant="t", model="one group", tokens_per_block=16, part_bytes=pages.shape.part_bytes
        )
        space = client.open_space("one group", described)
    link = Link(kvtier.LocalClient(shared_daemon.local, tenant="t"))
    half = WorkerHalf(Settings.read({"data_directory": "/d", "reserve_wait_ms": 1000}), link, pages, (0, 0))  # type: ignore[arg-type]
    half.reserve(Step(stores=[Store("r", space, KEYS, None, [[[3], [7], [1]]])]))
    half.fill()
    half._collect(wait=PATIENCE)
    half.start_loads(Step(loads=[Load("r", space, [*KEYS[:2], b"never stored", b"nor this"], [[[4], [6], [8], [9]]])]))
    half._loading[0].pending.wait(PATIENCE)
    assert half.take_loaded() == ({"r"}, set())
    assert half.take_invalid() == {8, 9}
    report = half.take_report()
    assert report is not None and report.loads["r"].units == 2
    assert torch.equal(cache["a"][4], cache["a"][3]) and torch.equal(cache["a"][6], cache["a"][7])
    assert half.take_invalid() == set() and half.take_report() is None
    assert half.counts["loads_incomplete"] == 1
    half.close()


def test_long_loads_go_in_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_half, "LOAD_RUN_BYTES", 1)
    before = pages_of(world.caches[1], UNITS)
    world.store()
    assert world.load() == [({"r"}, set())] * 2
    assert all(map(torch.equal, before, pages_of(world.caches[1], EMPTY)))


def test_units_outside_the_window_of_one_group_are_left_alone(world: World) -> None:
    world.store()
    outside = pages_of(world.caches[0], [[], [[10], [11]]])
    assert world.load(units=[EMPTY[0], [[0], [0], [1]]]) == [({"r"}, set())] * 2
    assert all(map(torch.equal, outside, pages_of(world.caches[0], [[], [[10], [11]]])))
    assert torch.equal(world.caches[0]["c"][1], world.caches[0]["c"][9])


def test_after_a_store_that_failed_nothing_of_that_request_is_stored(world: World) -> None:
    half, link = world.halves[0], world.links[0]
    client, link.connected = link.connected, None
    half.reserve(Step(stores=[Store("r", world.space, KEYS, None, UNITS)], parts=world.parts))
    half.fill()
    link.connected = client
    later = Store("r", world.space, [b"d"], KEYS[-1], [[[4]], [[4]]])
    half.reserve(Step(stores=[later], parts=world.parts))
    assert half._storing == []
    half.forget(["r"])
    half.reserve(Step(stores=[later], parts=world.parts))
    assert len(half._storing) == 1


def test_room_that_comes_too_late_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    half = world.halves[0]
    monkeypatch.setattr(half, "_settings", Settings.read({"data_directory": "/d", "reserve_wait_ms": 0}))
    half.reserve(Step(stores=[Store("r", world.space, KEYS, None, UNITS)], parts=world.parts))
    half._storing[0].room = [Never() for _ in half._storing[0].room]  # type: ignore[misc]
    half.fill()
    assert half.counts["stores_late"] == 1
    assert half._committing == []


def test_a_daemon_that_dies_under_a_load_fails_it(start: Callable[..., Any], request: pytest.FixtureRequest) -> None:
    daemon = start()
    world = World(daemon, request.node.name)
    world.store()
    daemon.kill()
    assert world.load() == [({"r"}, {"r"})] * 2
    assert all(isinstance(link.errors[0], (kvtier.Unavailable, kvtier.Indeterminate)) for link in world.links)
    assert world.load() == [({"r"}, {"r"})] * 2, "and without a daemon at all"
    world.close()
