"""What is loaded and what is computed, with a clock that stands still and an engine of made-up prices."""

from __future__ import annotations

import random

import pytest
from kvtier.vllm.cost import CLIP, PROBE_FIRST, PROBE_LAST, PROBE_SHARE, Choice, Fit, Gate

UNIT = 32
CHUNK = 512
#: Seconds of the made-up engine: a step, a token, a pair of tokens.
STEP, TOKEN, PAIR = 0.02, 0.0007, 1e-7


class World:
    def __init__(self, *, on: bool = True) -> None:
        self.now = 100.0
        self.gate = Gate(on=on, unit_tokens=UNIT, chunk_tokens=CHUNK, clock=lambda: self.now)

    def computes(self, *lengths: int) -> None:
        """Whole prompts, chunk by chunk, and a token after each."""
        for length in lengths:
            for first in range(0, length, CHUNK):
                count = min(CHUNK, length - first)
                pairs = count * (first + count / 2)
                self.gate.learn_step(count, pairs, STEP + TOKEN * count + PAIR * pairs)
            self.gate.learn_step(1, 0, STEP + TOKEN)

    def loads(self, host: int, nvme: int, fixed: float, each: float, times: int = 1) -> None:
        for _ in range(times):
            self.gate.learn_load(host, nvme, fixed + each * (host + nvme))


def true_cost(length: int) -> float:
    return -(-length // CHUNK) * STEP + TOKEN * length + PAIR * length * length / 2


@pytest.mark.parametrize("length", [64, 400, 2048, 4096])
def test_the_price_of_computing_is_learned_from_steps(length: int) -> None:
    world = World()
    world.computes(512, 100, 3000, 700, 2000, 300, 4000, 64)
    assert world.gate.compute_seconds(0, length) == pytest.approx(true_cost(length), rel=0.1)


def test_before_anything_was_computed_everything_is_loaded() -> None:
    world = World()
    world.loads(4, 0, 10.0, 1.0)
    assert world.gate.choose(0, 200, 4, 0) == Choice(4)


def test_what_costs_more_than_it_saves_is_declined() -> None:
    world = World()
    world.computes(2000, 2000)
    world.loads(8, 0, 0.1, 0.1, times=8)
    assert world.gate.choose(0, 300, 8, 0).probe, "the first time it is tried"
    assert world.gate.choose(0, 300, 8, 0) == Choice(0)
    assert world.gate.choose(0, 4096, 127, 0) == Choice(0)


def test_the_step_of_a_prompts_last_token_is_not_saved_by_a_hit_of_everything() -> None:
    world = World()
    world.computes(2000, 2000)
    world.loads(1, 0, 0.0, true_cost(UNIT) * 0.7, times=8)
    assert world.gate.choose(0, UNIT, 1, 0).probe, "cheaper than all of it, dearer than all but the last token"


def test_what_saves_more_than_it_costs_is_loaded() -> None:
    world = World()
    world.computes(2000, 2000)
    world.loads(8, 0, 0.001, 0.001, times=8)
    assert world.gate.choose(0, 300, 9, 0) == Choice(9)
    assert world.gate.choose(64, 300, 7, 0) == Choice(7)


def test_the_part_in_host_memory_is_loaded_when_the_disk_is_too_slow() -> None:
    world = World()
    world.computes(2000, 2000)
    for _ in range(8):
        world.loads(8, 0, 0.001, 0.001)
        world.loads(0, 8, 0.001, 1.0)
    assert world.gate.choose(0, 300, 5, 4) == Choice(5)


def test_a_step_that_is_not_saved_is_not_counted_as_saved() -> None:
    world = World()
    world.computes(2000, 64, 100, 2000)
    # 32 of 64 tokens: the step is there either way, so it saves TOKEN * 32 = 22 ms and not half of 65 ms.
    world.loads(1, 0, 0.027, 0.0, times=8)
    world.gate.choose(0, 64, 1, 0)
    assert world.gate.choose(0, 64, 1, 0) == Choice(0)


def test_probes_are_small_and_become_rare() -> None:
    world = World()
    world.computes(2000, 2000)
    world.loads(8, 0, 0.5, 0.0, times=8)
    probes = []
    for _ in range(20_000):
        choice = world.gate.choose(0, 300, 8, 0)
        if choice.units:
            assert choice == Choice(1, probe=True)
            probes.append(world.now)
            world.loads(1, 0, 0.5, 0.0)
        world.now += 0.1
    pauses = [later - sooner for sooner, later in zip(probes, probes[1:])]
    assert pauses[0] >= PROBE_FIRST
    assert pauses[2] >= PROBE_SHARE * 0.5 * 0.9
    assert pauses[-1] >= PROBE_LAST * 0.99
    assert len(probes) < 2000 / PROBE_LAST + 10


def test_an_estimate_that_was_wrong_heals() -> None:
    world = World()
    world.computes(2000, 2000)
    world.loads(8, 0, 0.002, 0.0, times=20)
    assert world.gate.choose(0, 300, 8, 0) == Choice(8)
    # A bad minute …
    world.loads(8, 0, 2.0, 0.0, times=3)
    world.gate.choose(0, 300, 8, 0)
    assert world.gate.choose(0, 300, 8, 0) == Choice(0)
    # … after which everything is as before.
    probes = 0
    while (choice := world.gate.choose(0, 300, 8, 0)) != Choice(8):
        world.now += 1.0
        if choice.probe:
            probes += 1
            world.loads(1, 0, 0.002, 0.0)
        assert probes < 10 and world.now < 100 + 600, world.gate.load_seconds(8, 0)


def test_one_load_that_was_unlucky_changes_little() -> None:
    world = World()
    world.computes(2000, 2000)
    world.loads(8, 0, 0.002, 0.0, times=20)
    world.loads(8, 0, 30.0, 0.0)
    assert world.gate.load_seconds(8, 0) <= 0.002 * CLIP
    world.loads(8, 0, 0.002, 0.0, times=3)
    assert world.gate.load_seconds(8, 0) < 0.01


def test_a_lookup_is_waited_for_as_long_as_it_can_pay() -> None:
    world = World()
    assert world.gate.waits(50.0, 0, 64), "nothing is known yet"
    world.computes(2000, 2000)
    assert world.gate.waits(0.0009, 0, 64) and not world.gate.waits(0.01, 0, 64)
    assert world.gate.waits(0.01, 0, 2000) and not world.gate.waits(0.01, 1984, 2000)
    assert World(on=False).gate.waits(50.0, 0, 64)


def test_a_gate_that_is_off_declines_nothing() -> None:
    world = World(on=False)
    world.computes(2000, 2000)
    world.loads(8, 0, 50.0, 0.0, times=8)
    assert world.gate.choose(0, 300, 8, 1) == Choice(9)


def test_noise_does_not_become_a_price() -> None:
    chance = random.Random(7)
    fit = Fit(0.0, 0.0)
    for _ in range(400):
        tokens = chance.choice((40, 100, 512))
        fit.learn(tokens, tokens * tokens / 2, TOKEN * tokens * chance.uniform(0.8, 1.25))
    assert fit.predict(512, 512 * 256) == pytest.approx(TOKEN * 512, rel=0.2)
    assert min(fit.first_price, fit.second_price) >= 0


def test_long_answers_do_not_wash_out_what_prompts_cost() -> None:
    world = World()
    world.computes(512, 100, 3000, 700)
    before = world.gate.compute_seconds(0, 2048)
    for _ in range(5000):
        world.gate.learn_step(1, 0, STEP + TOKEN)
    assert world.gate.compute_seconds(0, 2048) == pytest.approx(before, rel=0.05)
