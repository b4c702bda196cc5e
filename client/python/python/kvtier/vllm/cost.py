"""What a load and what computing cost, learned from this engine's own loads and steps, and which of the two is chosen.

    a lookup found n units ─► Gate.choose: price of loading them + reporting  <  price of computing them ? ─► load them
                                └ no ─► declined and computed; one unit is loaded now and then, to learn whether it still is so

Costs are sums of amounts times a price each, none negative. A load: units, and one for being a load, with prices of their
own for host memory and for NVMe. A step of the engine: tokens, pairs of tokens that attend to each other, and one for
being a step. Each sample counts less the older it is. One that is more than twice off says that everything has become
dearer or cheaper: what was learned is scaled half of the way before it counts, so that a change is believed after a few
samples, whichever way it goes, and one unlucky sample is forgotten as soon. Until the engine has computed prompts, everything is loaded: there is
nothing to compare with. Nothing here is shared between engines or survives one. No clock of its own: deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

#: Steps that compute fewer tokens than this are mostly the price of a step.
SMALL_STEP_TOKENS = 8
#: Steps with prompts before their price is believed.
STEPS_MIN = 3
#: What a sample's weight is multiplied by with every later one, and with one that is off by more than SURPRISE.
KEEP, KEEP_SURPRISED = 0.9, 0.5
SURPRISE = 2.0
#: No sample counts for more than this many times its prediction, or for less than a part of it.
CLIP = 20.0
#: Sweeps that look for the best prices after a sample; they begin at the last ones.
SWEEPS = 8
#: A first guess, replaced by the first loads: seconds per unit and per load, from host memory and from NVMe.
HOST_PRIOR, NVME_PRIOR = (0.0002, 0.0005), (0.001, 0.001)
#: A lookup is waited for as long as that part of computing the prompt takes, and at least so many seconds.
PATIENCE_SHARE, PATIENCE_MIN = 0.02, 0.001
#: Pauses between two probes of what was declined, in seconds.
PROBE_FIRST, PROBE_LAST = 1.0, 60.0
#: Of an engine's time, probes take at most one part in so many.
PROBE_SHARE = 50.0


class Fit:
    """Two prices, by weighted least squares without negative ones: seconds ≈ first × first_price + second × second_price.
    Written out, because a scheduler's step pays for it."""

    def __init__(self, first_price: float, second_price: float) -> None:
        self.first_price, self.second_price = first_price, second_price
        #: Samples so far.
        self.samples = 0
        #: Weighted sums: first², first × second, second², first × seconds, second × seconds.
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)

    def predict(self, first: float, second: float) -> float:
        return self.first_price * first + self.second_price * second

    def learn(self, first: float, second: float, seconds: float) -> None:
        """One sample. The first price explains what both could."""
        if seconds <= 0:
            return
        keep, expected = KEEP, self.predict(first, second)
        if self.samples and expected > 0:
            seconds = min(max(seconds, expected / CLIP), expected * CLIP)
            if not 1 / SURPRISE <= seconds / expected <= SURPRISE:
                keep = KEEP_SURPRISED
                self._scale(math.sqrt(seconds / expected))
        # Relative errors count.
        weight = 1 / (seconds * seconds)
        ff, fs, ss, ft, st = self._sums
        ff = ff * keep + weight * first * first
        fs = fs * keep + weight * first * second
        ss = ss * keep + weight * second * second
        ft = ft * keep + weight * first * seconds
        st = st * keep + weight * second * seconds
        self._sums = ff, fs, ss, ft, st
        self.samples += 1
        one, two = self.first_price, self.second_price
        for _ in range(SWEEPS):
            if ff > 0:
                one = max(0.0, (ft - fs * two) / ff)
            if ss > 0:
                two = max(0.0, (st - fs * one) / ss)
        self.first_price, self.second_price = one, two

    def _scale(self, factor: float) -> None:
        """As if all samples so far had taken that much longer."""
        self.first_price *= factor
        self.second_price *= factor
        ff, fs, ss, ft, st = self._sums
        square = factor * factor
        self._sums = ff / square, fs / square, ss / square, ft / factor, st / factor


@dataclass(frozen=True)
class Choice:
    """What becomes of a hit."""

    #: Units to load, from the first of the hit on.
    units: int
    #: They are loaded to learn what loading costs, not to save time.
    probe: bool = False


class Gate:
    """Chooses between loading and computing. Used by one thread, vLLM's scheduler."""

    def __init__(self, *, on: bool, unit_tokens: int, chunk_tokens: int, clock: Callable[[], float]) -> None:
        self._on = on
        self._unit = unit_tokens
        self._chunk = max(1, chunk_tokens)
        self._clock = clock
        self._host, self._nvme = Fit(*HOST_PRIOR), Fit(*NVME_PRIOR)
        #: Per token, and per pair of tokens; what a step costs besides is known from small steps.
        self._prefill = Fit(0.0, 0.0)
        self._step = 0.0
        self._small_steps = 0
        #: From the end of a load until the scheduler hears of it, in an engine that does nothing else.
        self._report = 0.0
        self._probe_at = -math.inf
        self._probe_pause = PROBE_FIRST

    @property
    def on(self) -> bool:
        return self._on

    def choose(self, computed_tokens: int, tokens: int, host_units: int, nvme_units: int) -> Choice:
        """Which part of a hit to load: all of it, what is in host memory, or nothing. `computed_tokens` of `tokens` are
        the engine's already; the hit begins there."""
        units = host_units + nvme_units
        if not self._on or self._prefill.samples < STEPS_MIN:
            return Choice(units)
        whole = self.compute_seconds(computed_tokens, tokens)
        best, gain = 0, 0.0
        for count in {units, host_units} - {0}:
            # The last token is computed in any case.
            rest = self.compute_seconds(min(computed_tokens + count * self._unit, tokens - 1), tokens)
            saved = whole - rest - self.load_seconds(min(count, host_units), max(0, count - host_units))
            if saved > gain:
                best, gain = count, saved
        if best:
            self._probe_pause = PROBE_FIRST
            return Choice(best)
        return self._probe(host_units)

    def waits(self, seconds: float, computed_tokens: int, tokens: int) -> bool:
        """Whether the answer to a lookup that was asked `seconds` ago is worth waiting for."""
        if not self._on or self._prefill.samples < STEPS_MIN:
            return True
        return seconds < max(PATIENCE_MIN, PATIENCE_SHARE * self.compute_seconds(computed_tokens, tokens))

    def _probe(self, host_units: int) -> Choice:
        """Declines, or tries with one unit."""
        now = self._clock()
        if now < self._probe_at:
            return Choice(0)
        price = self.load_seconds(min(1, host_units), 1 - min(1, host_units))
        self._probe_at = now + max(self._probe_pause, PROBE_SHARE * price)
        self._probe_pause = min(self._probe_pause * 2, PROBE_LAST)
        return Choice(1, probe=True)

    def load_seconds(self, host_units: int, nvme_units: int) -> float:
        """What a request would wait for these units."""
        if not nvme_units:
            return self._host.predict(host_units, 1) + self._report
        return self._nvme.predict(nvme_units, 1) + self._host.first_price * host_units + self._report

    def compute_seconds(self, first: int, end: int) -> float:
        """What computing tokens `first` to `end` of a prompt takes an engine that does nothing else."""
        count = end - first
        pairs = (end * end - first * first) / 2
        return math.ceil(count / self._chunk) * self._step + self._prefill.predict(count, pairs)

    def learn_load(self, host_units: int, nvme_units: int, seconds: float) -> None:
        """A load of that much took so long."""
        if not nvme_units:
            self._host.learn(host_units, 1, seconds)
        else:
            self._nvme.learn(nvme_units, 1, max(seconds - self._host.first_price * host_units, seconds / 10))

    def learn_report(self, seconds: float) -> None:
        """So long an idle engine took to hear of a load's end."""
        self._report += (min(seconds, 0.1) - self._report) * (1 - KEEP)

    def learn_step(self, tokens: int, pairs: float, seconds: float) -> None:
        """A step computed that much in so long."""
        if tokens <= SMALL_STEP_TOKENS:
            self._small_steps += 1
            share = max(1 / self._small_steps, 1 - KEEP)
            self._step += (seconds - self._step) * share
        else:
            self._prefill.learn(tokens, pairs, max(seconds - self._step, seconds / 10))
