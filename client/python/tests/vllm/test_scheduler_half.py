"""The scheduler half alone: no vLLM, no daemon, a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import kvtier
import pytest
from fake_daemon import SPACE, Found, Link, Pending
from kvtier.vllm.scheduler_half import EARLY_MAX, SchedulerHalf
from kvtier.vllm.settings import Settings
from kvtier.vllm.step import LoadEnd, StepReport

UNIT = 16


@dataclass
class Daemon:
    """What the half sees of a client."""

    resident: int = 0
    late: bool = False
    asking: Callable[[], object] = lambda: None
    telling: Callable[[], object] = lambda: None
    polled: Callable[[float], object] = lambda spin: None
    asked: list[int] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    notes: list[tuple[str, str, int, str]] = field(default_factory=list)
    #: Of them those that are on their way.
    told: int = 0

    def nudge(self) -> None:
        self.told = len(self.notes)

    def report(self, space: bytes, request: str, verdict: str, *, blocks: int, detail: str) -> None:
        assert space == SPACE
        self.telling()
        self.notes.append((request, verdict, blocks, detail))

    def acquire_start(self, space: bytes, keys: list[bytes], *, min_tier: str, lease: float, request: str) -> Pending:
        assert (space, min_tier) == (SPACE, "nvme") and request
        self.asking()
        self.asked.append(len(keys))
        self.found.append(Found(min(self.resident, len(keys))))
        self.pending.append(Pending(None if self.late else self.found[-1], self.polled))
        return self.pending[-1]


class World:
    def __init__(self, resident: int = 0, **settings: Any) -> None:
        self.daemon = Daemon(resident)
        self.link = Link(self.daemon)
        self.now = 100.0
        self.half = SchedulerHalf(
            Settings.read({"data_directory": "/d"} | settings),
            self.link,  # type: ignore[arg-type]
            SimpleNamespace(find=lambda adapter: SPACE if adapter is None else None),
            unit_tokens=UNIT,
            hash_tokens=UNIT,
            blocks_per_unit=[1],
            group_ids=[0],
            clock=lambda: self.now,
        )

    def step(self, blocks: dict[str, list[int]] | None = None, **scheduled: int) -> Any:
        held = blocks or {}
        return self.half.step(scheduled, lambda request: (held[request],) if request in held else None)


def request(tokens: int, name: str = "r", prompt: int | None = None, lora: Any = None) -> Any:
    hashes = [bytes([index]) * 32 for index in range(tokens // UNIT)]
    return SimpleNamespace(
        request_id=name,
        num_tokens=tokens,
        num_prompt_tokens=prompt or tokens,
        num_computed_tokens=0,
        block_hashes=hashes,
        lora_request=lora,
    )


def test_one_lookup_asks_for_the_whole_prompt() -> None:
    world = World(resident=9)
    whole = request(4 * UNIT)
    assert world.half.matched(whole, 0) == (4 * UNIT, True), "vLLM itself computes the last token again"
    assert world.half.matched(whole, 0) == (4 * UNIT, True), "and is not asked twice"
    assert world.daemon.asked == [4]
    # Where attention has windows, vLLM may have dropped a block that the last token needs.
    world.half._never_asked = 1
    assert world.half.matched(request(4 * UNIT, "windows"), 0) == (3 * UNIT, True)


def test_what_the_engine_has_itself_is_not_offered_again() -> None:
    world = World(resident=3)
    assert world.half.matched(request(5 * UNIT), 2 * UNIT) == (UNIT, True)
    assert world.half.matched(request(5 * UNIT, "other"), 3 * UNIT) == (0, False)
    assert world.daemon.found[1].released, "what is no use is given back"


def test_a_late_answer_is_asked_for_again_and_then_given_up() -> None:
    world = World(resident=3)
    world.daemon.late = True
    late = request(4 * UNIT)
    world.half.on_new(late)
    assert world.half.matched(late, 0) == (None, False)
    world.daemon.pending[0].answer = world.daemon.found[0]
    assert world.half.matched(late, 0) == (3 * UNIT, True)

    never = request(4 * UNIT, "never")
    assert world.half.matched(never, 0) == (None, False)
    world.now += 0.101
    assert world.half.matched(never, 0) == (0, False)
    assert isinstance(world.link.errors[0], kvtier.TimedOut), "a daemon that does not answer is left alone"
    assert world.half.matched(never, 0) == (0, False)


def test_of_many_lookups_each_step_takes_a_few_and_every_one_has_its_turn() -> None:
    world = World(resident=3, lookup_wait_us=50)
    world.daemon.late = True
    waiting = [request(4 * UNIT, f"r{number}") for number in range(9)]
    for one in waiting:
        world.half.on_new(one)
    looks: list[float] = []

    def look(spin: float) -> None:
        looks.append(spin)
        world.now += 40e-6 + spin

    for pending in world.daemon.pending:
        pending.polled = look
    assert [world.half.matched(one, 0) for one in waiting] == [(None, False)] * 9
    assert looks == pytest.approx([50e-6, 0]), "one waits, one more is looked at, and then time is up"
    assert world.half.matched(request(UNIT - 1, "short"), 0) == (0, False), "what has nothing to ask goes on"
    for pending, found in zip(world.daemon.pending, world.daemon.found, strict=True):
        pending.answer = found
    loaded = set()
    for _ in range(9):
        world.step()
        for one in waiting:
            if one.request_id not in loaded and world.half.matched(one, 0) == (3 * UNIT, True):
                loaded.add(one.request_id)
                world.half.allocated(one, [[7, 8, 9, 10]], 3 * UNIT)
    assert len(loaded) == 9


def test_requests_that_arrive_together_are_asked_about_at_once_and_answered_in_one_step() -> None:
    world = World(resident=3)
    together = [request(4 * UNIT, f"r{number}") for number in range(4)]
    world.daemon.asking = lambda: setattr(world, "now", world.now + 40e-6)
    world.daemon.polled = lambda spin: setattr(world, "now", world.now + 30e-6)
    for one in together:
        world.half.on_new(one)
    assert [world.half.matched(one, 0) for one in together] == [(3 * UNIT, True)] * 4
    assert world.daemon.asked == [4] * 4


def test_of_many_that_arrive_so_many_are_asked_about_early() -> None:
    world = World(resident=3)
    world.daemon.late = True
    for number in range(EARLY_MAX + 9):
        world.half.on_new(request(4 * UNIT, f"r{number}"))
    assert len(world.daemon.asked) == EARLY_MAX


def loads(world: World, count: int) -> list[str]:
    """So many loads under way, with a daemon that takes 50 us of a step for each note."""
    loading = [request(4 * UNIT, f"r{number}") for number in range(count)]
    for one in loading:
        assert world.half.matched(one, 0) == (3 * UNIT, True)
        world.half.allocated(one, [[7, 8, 9, 10]], 3 * UNIT)
        world.step()
    world.daemon.telling = lambda: setattr(world, "now", world.now + 50e-6)
    return [one.request_id for one in loading]


def test_ends_of_loads_that_a_step_has_no_time_for_are_told_in_the_next_one_that_has() -> None:
    world = World(resident=3)
    world.half.loaded(loads(world, 5), [])
    noted, told = [], []
    for _ in range(3):
        world.step()
        noted.append(len(world.daemon.notes))
        told.append(world.daemon.told)
    assert (noted, told) == ([2, 4, 5], [0, 0, 5]) and all(found.released for found in world.daemon.found)


def test_a_daemon_is_told_after_a_few_steps_even_if_none_has_time() -> None:
    world = World(resident=3)
    ended = loads(world, 8)
    told = []
    for at in range(0, 8, 2):
        world.half.loaded(ended[at : at + 2], [])
        world.step()
        told.append(world.daemon.told)
    assert told == [0, 0, 0, 8]


def test_a_daemon_that_fails_means_computing() -> None:
    world = World(resident=3)
    world.daemon.late = True
    unlucky = request(4 * UNIT)
    world.half.on_new(unlucky)
    world.daemon.pending[0].answer = kvtier.Unavailable("gone")
    assert world.half.matched(unlucky, 0) == (None, False), "a daemon that was restarted answers the second time"
    world.daemon.pending[1].answer = kvtier.Unavailable("gone")
    assert world.half.matched(unlucky, 0) == (0, False)
    assert [str(error) for error in world.link.errors] == ["gone"]


def test_the_first_requests_wait_for_the_first_connection_only_so_long() -> None:
    world = World(resident=3)
    world.link.daemon, world.link.settled = None, False
    first = request(4 * UNIT)
    assert world.half.matched(first, 0) == (None, False)
    world.now += 11
    assert world.half.matched(first, 0) == (0, False)
    world.link.settled = True
    assert world.half.matched(request(4 * UNIT, "later"), 0) == (0, False)


def test_a_load_names_the_keys_and_blocks_after_the_engines_own() -> None:
    world = World(resident=3)
    some = request(4 * UNIT)
    assert world.half.matched(some, UNIT) == (2 * UNIT, True)
    world.half.allocated(some, [[7, 8, 9, 10]], 2 * UNIT)
    (load,) = world.step().loads
    assert (load.request, load.space) == ("r", SPACE)
    assert load.keys == [bytes([1]) * 32, bytes([2]) * 32]
    assert load.blocks == [[[8], [9]]]
    assert world.step().loads == []


def test_the_lease_lasts_until_the_load_has_ended_even_if_the_request_has() -> None:
    world = World(resident=3)
    some = request(4 * UNIT)
    world.half.matched(some, 0)
    world.half.allocated(some, [[7, 8, 9, 10]], 3 * UNIT)
    world.half.finished("r")
    assert not world.daemon.found[0].released
    world.half.loaded(["r"], [])
    assert world.daemon.found[0].released


def test_a_request_that_goes_gives_everything_back() -> None:
    world = World(resident=3)
    found, asked = request(4 * UNIT, "found"), request(4 * UNIT, "asked")
    world.half.matched(found, 0)
    world.daemon.late = True
    world.half.on_new(asked)
    for name in ("found", "asked", "never seen"):
        world.half.finished(name)
    assert world.daemon.found[0].released
    assert world.half._tracked == {}
    assert world.half._asking == 0


def test_a_lease_that_runs_out_while_there_is_no_room_is_renewed() -> None:
    world = World(resident=3, lease_ms=10_000)
    waiting = request(4 * UNIT)
    world.half.matched(waiting, 0)
    world.now += 6
    assert world.half.matched(waiting, 0) == (3 * UNIT, True)
    assert [found.released for found in world.daemon.found] == [True, False]


def test_a_failed_hit_is_never_offered_again_and_stored_anew() -> None:
    world = World(resident=3)
    bad = request(4 * UNIT)
    world.half.matched(bad, 0)
    world.half.allocated(bad, [[7, 8, 9, 10]], 3 * UNIT)
    world.step()
    world.half.loaded(["r"], ["r"])
    assert world.half.matched(bad, 0) == (0, False)
    world.half.allocated(bad, [[7, 8, 9, 10]], 0)
    (store,) = world.step({"r": [7, 8, 9, 10]}, r=4 * UNIT).stores
    assert len(store.keys) == 4


def test_of_a_load_that_was_cut_the_first_units_count_and_the_rest_is_stored_again() -> None:
    world = World(resident=3)
    cut = request(4 * UNIT)
    world.half.matched(cut, 0)
    world.half.allocated(cut, [[7, 8, 9, 10]], 3 * UNIT)
    world.step()
    # Another rank found the first unit only, and said so a step earlier.
    world.half.loaded([], [], {8, 9})
    world.half.loaded(["r"], [], {9})
    assert (world.half.counts["loads_cut"], world.half.counts["load_tokens_lost"]) == (1, 2 * UNIT)
    assert world.daemon.found[0].released
    cut.num_computed_tokens = UNIT
    (store,) = world.step({"r": [7, 8, 9, 10]}, r=3 * UNIT).stores
    assert (store.keys, store.parent) == ([bytes([index]) * 32 for index in (1, 2, 3)], bytes([0]) * 32)


def slow_loads(world: World) -> None:
    """An engine that computes 1,000 tokens a second, and loads of 10 s."""
    for _ in range(5):
        world.half.learn(StepReport(tokens=100, pairs=0.0, seconds=0.1))
        world.half.gate.learn_load(3, 0, 10.0)


def test_a_hit_that_is_not_worth_loading_is_declined_once_and_not_stored_again() -> None:
    world = World(resident=3)
    slow_loads(world)
    world.half.gate._probe_at = world.now + 60
    dear = request(4 * UNIT)
    assert world.half.matched(dear, 0) == (0, False)
    assert world.half.matched(dear, 0) == (0, False), "asked about again because there was no room"
    assert world.daemon.asked == [4] and world.daemon.found[0].released
    assert (world.half.counts["gate_declined"], world.half.counts["gate_declined_tokens"]) == (1, 3 * UNIT)
    world.half.allocated(dear, [[7, 8, 9, 10]], 0)
    (store,) = world.step({"r": [7, 8, 9, 10]}, r=4 * UNIT).stores
    assert len(store.keys) == 1, "three are in kvtier already"


def test_a_late_answer_that_cannot_pay_is_not_waited_for_but_tells_what_is_stored() -> None:
    world = World(resident=3)
    slow_loads(world)
    world.daemon.late = True
    hasty = request(4 * UNIT)
    world.half.on_new(hasty)
    assert world.half.matched(hasty, 0) == (None, False)
    world.now += 0.01
    assert world.half.matched(hasty, 0) == (0, False)
    assert world.link.errors == [], "the daemon is slow, not away"
    world.daemon.pending[0].answer = world.daemon.found[0]
    world.half.allocated(hasty, [[7, 8, 9, 10]], 0)
    (store,) = world.step({"r": [7, 8, 9, 10]}, r=4 * UNIT).stores
    assert (len(store.keys), world.half.counts["lookups_late"]) == (1, 1)
    assert world.daemon.found[0].released and world.half._asking == 0


def test_a_probe_loads_one_unit_and_what_it_took_is_learned() -> None:
    world = World(resident=3)
    slow_loads(world)
    dear = request(4 * UNIT)
    assert world.half.matched(dear, 0) == (UNIT, True)
    assert world.half.matched(dear, 0) == (UNIT, True), "no room: the same offer again"
    assert (world.half.counts["gate_probes"], world.half.counts["gate_declined_tokens"]) == (1, 2 * UNIT)
    world.half.allocated(dear, [[7, 8, 9, 10]], UNIT)
    before = world.half.gate.load_seconds(1, 0)
    world.half.learn(StepReport(loads={"r": LoadEnd(units=1, seconds=0.001)}))
    world.half.loaded(["r"], [])
    assert world.half.gate.load_seconds(1, 0) < before


def test_a_load_that_takes_long_for_nothing_makes_loads_dearer_and_one_that_fails_at_once_does_not() -> None:
    world = World(resident=3)
    slow_loads(world)
    world.half.gate._probe_at = -1.0
    for seconds, dearer in ((0.0, False), (500.0, True)):
        name = f"r{seconds}"
        failing = request(4 * UNIT, name)
        world.half.matched(failing, 0)
        world.half.allocated(failing, [[7, 8, 9, 10]], UNIT)
        before = world.half.gate.load_seconds(1, 0)
        world.half.learn(StepReport(loads={name: LoadEnd(units=0, seconds=seconds)}))
        assert (world.half.gate.load_seconds(1, 0) > before) is dearer
        world.half.loaded([name], [name])
        world.half.gate._probe_at = -1.0


def test_what_became_of_a_request_is_told_for_kvtier_why() -> None:
    world = World(resident=3)
    for name, units, why in (("good", 3, ""), ("cut", 1, "block 1 is gone")):
        some = request(4 * UNIT, name)
        world.half.matched(some, 0)
        world.half.allocated(some, [[7, 8, 9, 10]], 3 * UNIT)
        world.half.learn(StepReport(loads={name: LoadEnd(units, 0.001, why)}))
        world.half.loaded([name], [], {8} if why else ())
    slow_loads(world)
    world.half.gate._probe_at = world.now + 60
    world.half.matched(request(4 * UNIT, "dear" * 100), 0)
    assert world.daemon.notes[:2] == [("good", "loaded", 3, ""), ("cut", "failed", 2, "block 1 is gone")]
    (name, verdict, blocks, detail) = world.daemon.notes[2]
    assert (name, verdict, blocks) == ("dear" * 32, "declined", 3) and detail.startswith("cost gate: loading 3 blocks")


def test_a_step_says_how_much_it_computes() -> None:
    world = World()
    long, decodes = request(40 * UNIT, "long"), request(4 * UNIT, "decodes")
    world.half.on_new(long), world.half.on_new(decodes)
    long.num_computed_tokens = 100
    step = world.step(long=50, decodes=1)
    assert (step.tokens, step.pairs) == (51, 50 * 125)


def test_of_two_ranks_the_slower_counts() -> None:
    one = StepReport(51, 6250.0, 0.5, {"a": LoadEnd(3, 0.1), "b": LoadEnd(1, 0.3)})
    two = StepReport(51, 6250.0, 0.7, {"a": LoadEnd(2, 0.2)})
    assert one.merge(two) == StepReport(51, 6250.0, 0.7, {"a": LoadEnd(2, 0.2), "b": LoadEnd(1, 0.3)})


def test_blocks_are_stored_once_in_the_step_that_fills_them() -> None:
    world = World(resident=1)
    grows = request(4 * UNIT)
    world.half.matched(grows, 0)
    world.half.allocated(grows, [[7, 8, 9, 10]], UNIT)
    grows.num_computed_tokens = UNIT
    blocks = {"r": [7, 8, 9, 10]}
    (store,) = world.step(blocks, r=UNIT + 3).stores
    assert (store.keys, store.parent, store.blocks) == ([bytes([1]) * 32], bytes([0]) * 32, [[[8]]])
    grows.num_computed_tokens = 2 * UNIT + 3
    (store,) = world.step(blocks, r=2 * UNIT - 3).stores
    assert (store.parent, store.blocks) == (bytes([1]) * 32, [[[9], [10]]])
    grows.num_computed_tokens = 4 * UNIT
    assert world.step(blocks, r=1).stores == []


def test_the_engines_own_hits_that_kvtier_lost_are_stored_again() -> None:
    world = World(resident=0)
    local = request(4 * UNIT)
    assert world.half.matched(local, 2 * UNIT) == (0, False)
    world.half.allocated(local, [[7, 8, 9, 10]], 0)
    local.num_computed_tokens = 2 * UNIT
    (store,) = world.step({"r": [7, 8, 9, 10]}, r=2 * UNIT).stores
    assert (store.parent, len(store.keys)) == (None, 4)


def test_answers_are_not_stored_when_only_prompts_are_wanted() -> None:
    world = World(store="prompt")
    answers = request(4 * UNIT, prompt=2 * UNIT + 1)
    world.half.matched(answers, 0)
    (store,) = world.step({"r": [7, 8, 9, 10]}, r=4 * UNIT).stores
    assert len(store.keys) == 2


def test_blocks_outside_a_sliding_window_end_a_store() -> None:
    world = World()
    slides = request(4 * UNIT)
    world.half.matched(slides, 0)
    (store,) = world.step({"r": [7, 8, 0, 10]}, r=4 * UNIT).stores
    assert store.blocks == [[[7], [8]]]


def test_an_adapter_without_a_space_is_computed_and_not_stored() -> None:
    world = World(resident=3)
    tuned = request(4 * UNIT, lora=SimpleNamespace(lora_name="a", lora_path="/a"))
    assert world.half.matched(tuned, 0) == (0, False)
    assert world.step({"r": [7, 8, 9, 10]}, r=4 * UNIT).stores == []
    assert world.daemon.asked == []


def test_after_a_change_of_weights_nothing_found_before_counts() -> None:
    world = World(resident=3)
    old = request(4 * UNIT)
    world.half.matched(old, 0)
    world.half.forget_found()
    assert world.daemon.found[0].released
    world.half.matched(old, 0)
    assert len(world.daemon.asked) == 2


@pytest.mark.parametrize(
    ("internal", "answered"),
    [
        ("chatcmpl-8f2c0d-1a2b3c4d", "chatcmpl-8f2c0d"),
        ("1_chatcmpl-8f2c0d-1a2b3c4d", "chatcmpl-8f2c0d"),
        ("cmpl-9e-0-1a2b3c4d", "cmpl-9e"),
        ("0_cmpl-my-own-7-12-1a2b3c4d", "cmpl-my-own-7"),
        ("12-1a2b3c4d", "12"),
        ("whatever", "whatever"),
        ("", ""),
    ],
)
def test_people_ask_by_the_id_in_vllms_answer(internal: str, answered: str) -> None:
    from kvtier.vllm.engine import answered_id

    assert answered_id(internal) == answered


def test_what_the_daemon_is_told_of_a_request_is_what_it_takes() -> None:
    from kvtier.vllm.notes import shorten

    assert shorten("a\nb\x1b[2J\u00e9", 512) == "a b [2J\u00e9"
    # Cut between letters, never inside one.
    assert shorten("\u00e9" * 100, 127) == "\u00e9" * 63
