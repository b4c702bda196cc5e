"""The half in vLLM's scheduler: which tokens need not be computed, and which blocks are stored.

A request goes through these states; every arrow is one call of vLLM's:

    new ──on_new──► asked ──matched──► found ──allocated──► loading ──loaded──► running ──finished──► gone
                      │ no answer in time      │ no room: asked about again        │ not whole: never again a hit,
                      └──► computed            │ lease ran out: looked up again    └──► the rest is computed
                                               └ not worth it (cost): computed

One lookup covers the whole prompt and leases what it found, so that nothing of it leaves before it is loaded; the lease
ends when the load ends, whichever way. Nothing here waits for the daemon longer than `lookup_wait_us` a step, nor twice
for one lookup; and in whatever number requests come and loads end, what need not happen in this step is left to the
next ones when StepTime is used up. Leases live in the client: if this process dies, the daemon ends them with its connection.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import kvtier
from kvtier.vllm.cost import Gate
from kvtier.vllm.link import BROKEN, Link
from kvtier.vllm.notes import NAME_MAX, Verdict, report, shorten
from kvtier.vllm.settings import Settings
from kvtier.vllm.step import NO_BLOCK, Load, Step, StepReport, Store, take_units
from kvtier.vllm.step_time import HOLD_SECONDS, StepTime

#: Lookups on their way at a time, besides those a step asks for.
EARLY_MAX = 64
#: A found prefix is looked up again when this much of its lease is over.
LEASE_USED_MAX = 0.5
#: How long the first requests of an engine may wait for the first connection, in seconds.
START_WAIT = 10.0
#: Notes for `kvtier why` that wait for a step with time for them; more are dropped.
LATER_MAX = 4096
#: Steps without time for it after which the daemon is told all the same: telling it takes 50 us when it sleeps.
UNTOLD_MAX = 3
#: Loads that end in one step and are learned from: they were under way together, so one says what all would.
LEARNED_MAX = 1


class Request(Protocol):
    """What is needed of a vLLM request."""

    request_id: str
    num_tokens: int
    num_prompt_tokens: int
    num_computed_tokens: int
    block_hashes: Sequence[bytes]
    lora_request: Any


class FindSpace(Protocol):
    def find(self, adapter: tuple[str, str] | None) -> bytes | None: ...


@dataclass
class _Asked:
    """A lookup on its way."""

    client: kvtier.LocalClient
    pending: kvtier.Pending[kvtier.Acquired]
    since: float
    #: A step has waited for it: the others only look.
    waited: bool = False


@dataclass
class _Loading:
    """A load that is under way."""

    lease: kvtier.Acquired
    #: The first unit of the prompt that is loaded, and how many are wanted.
    first: int
    units: int
    #: How many of them were in host memory.
    in_host: int
    #: The first group's blocks, unit by unit.
    blocks: list[list[int]]
    since: float
    #: Units from the first on that no worker has missed, and why not the next.
    whole: int
    why: str = ""
    #: Nothing else was computed since it began.
    alone: bool = True


@dataclass
class _Tracked:
    """What is known of one request."""

    request: Request
    #: What the daemon is to know it by.
    name: str
    asked: _Asked | None = None
    #: A leased prefix that is not being loaded yet, and when it was found.
    found: kvtier.Acquired | None = None
    found_at: float = 0.0
    #: The first unit of it that vLLM was offered.
    offered_from: int = 0
    #: How many units of it are worth loading, from the first that was offered on.
    offered: int = 0
    #: Units that are in kvtier, or were handed to the workers to be stored.
    stored: int = 0
    #: A lookup met a broken connection, once.
    asked_again: bool = False
    #: A load failed: whatever is found again would fail again.
    failed: bool = False
    #: The hit is not worth loading, until the request has been given room.
    declined: bool = False


class SchedulerHalf:
    """Used by one thread, vLLM's scheduler."""

    def __init__(
        self,
        settings: Settings,
        link: Link,
        spaces: FindSpace,
        *,
        unit_tokens: int,
        hash_tokens: int,
        blocks_per_unit: Sequence[int],
        group_ids: Sequence[int],
        chunk_tokens: int = 1 << 30,
        loads: bool = True,
        stores: bool = True,
        name_of: Callable[[str], str] = str,
        never_asked: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._link = link
        self._spaces = spaces
        self._unit = unit_tokens
        self._hashes_per_unit = unit_tokens // hash_tokens
        self._blocks_per_unit = list(blocks_per_unit)
        self._group_ids = list(group_ids)
        self._loads_on, self._stores_on = loads, stores
        self._name_of = name_of
        #: So many tokens at the end of a prompt are always computed together with the rest of their unit.
        self._never_asked = never_asked
        self._clock = clock
        self._started = clock()
        self.gate = Gate(on=settings.gate, unit_tokens=unit_tokens, chunk_tokens=chunk_tokens, clock=clock)
        self._tracked: dict[str, _Tracked] = {}
        self._asking = 0
        #: Loads, also those whose request has ended meanwhile.
        self._under_way: dict[str, _Loading] = {}
        self._new_loads: list[Load] = []
        self._time = StepTime(clock)
        #: What of it was waiting for answers; and whether a request has had its turn in this step.
        self._waited, self._turned = 0.0, False
        #: Notes that a step had no time for.
        self._later: deque[Callable[[], None]] = deque()
        #: Steps since the daemon was told.
        self._untold = 0
        self.parts: dict[tuple[int, int], tuple[int, int]] = {}
        self.counts: Counter[str] = Counter()

    # Lookups

    def on_new(self, request: Request) -> None:
        """A request has arrived: ask for it now, so that the answer is there when it is its turn. That is not counted as
        the step's: it would only be done later, and the request would lose a step."""
        tracked = self._track(request)
        if self._asking < EARLY_MAX and self._link.client() is not None and self._wants(request, 0):
            self._ask(tracked)

    def matched(self, request: Request, computed_tokens: int) -> tuple[int | None, bool]:
        """How many tokens after the first `computed_tokens` can be loaded, as vLLM asks for it: (None, False) for "ask
        again in the next step", and True for "they are loaded between steps"."""
        tracked = self._track(request)
        if tracked.failed or tracked.declined or not self._wants(request, computed_tokens):
            return 0, False
        with self._time:
            if self._turned and self._time.left(HOLD_SECONDS) <= 0:
                return None, False
            self._turned = True
            return self._match(tracked, computed_tokens)

    def _match(self, tracked: _Tracked, computed_tokens: int) -> tuple[int | None, bool]:
        if tracked.found is not None and self._clock() - tracked.found_at > self._lease * LEASE_USED_MAX:
            self._drop_found(tracked)
        if tracked.found is None:
            if tracked.asked is None and not self._ask(tracked):
                return (None, False) if self._starting() else (0, False)
            if not self._answered(tracked):
                return (None, False) if self._waits(tracked, computed_tokens) else (0, False)
        first = computed_tokens // self._unit
        if tracked.offered and tracked.offered_from == first:
            # There was no room for it: the same again, so that it is judged and counted once.
            return tracked.offered * self._unit, True
        return self._offer(tracked, computed_tokens)

    def _wants(self, request: Request, computed_tokens: int) -> bool:
        """Whether a lookup can bring anything: hits begin where units do. Of a hit of everything vLLM computes the last
        token again, as it needs its logits."""
        return (
            self._loads_on
            and request.num_tokens >= self._settings.tokens_min
            and computed_tokens % self._unit == 0
            and self._units(request) > computed_tokens // self._unit
        )

    def _units(self, request: Request) -> int:
        """How many units of a request can be looked up."""
        return (request.num_tokens - self._never_asked) // self._unit

    def _starting(self) -> bool:
        """Whether the first connection is still being made: worth a short wait, once in an engine's life."""
        return not self._link.settled and self._clock() - self._started < START_WAIT

    def _ask(self, tracked: _Tracked) -> bool:
        """Starts a lookup of the whole prompt; whether it could."""
        client = self._link.client()
        space = self._spaces.find(_adapter(tracked.request))
        keys = self._keys(tracked.request, 0, self._units(tracked.request))
        if client is None or space is None or not keys:
            self.counts["lookups_away"] += client is None
            return False
        try:
            pending = client.acquire_start(space, keys, min_tier="nvme", lease=self._lease, request=tracked.name)
        except kvtier.Error as error:
            self._fault(client, error)
            return False
        tracked.asked = _Asked(client, pending, self._clock())
        self._asking += 1
        self.counts["lookups"] += 1
        return True

    def _answered(self, tracked: _Tracked) -> bool:
        """Takes the answer if it is there; leaves `asked` only if it may still come."""
        asked = tracked.asked
        assert asked is not None
        try:
            found = asked.pending.poll() if asked.waited else self._wait(asked)
        except kvtier.Error as error:
            self._forget_asked(tracked)
            if isinstance(error, BROKEN) and not tracked.asked_again:
                # A daemon that was restarted unnoticed answers the second time.
                tracked.asked_again = True
                self._ask(tracked)
            else:
                self._fault(asked.client, error)
            return False
        if found is None:
            if self._clock() - asked.since > self._settings.lookup_timeout_ms / 1000:
                self._forget_asked(tracked)
                self._fault(asked.client, kvtier.TimedOut("no answer to a lookup in time"))
            return False
        self._forget_asked(tracked)
        tracked.found, tracked.found_at = found, self._clock()
        tracked.stored = max(tracked.stored, len(found))
        if found.miss is not None:
            self.counts[f"miss_{found.miss.reason}"] += 1
        return True

    def _waits(self, tracked: _Tracked, computed_tokens: int) -> bool:
        """Whether a request is held back for an answer that is not there yet."""
        if tracked.asked is None:
            return False
        since = self._clock() - tracked.asked.since
        if self.gate.waits(since, computed_tokens, tracked.request.num_tokens):
            return True
        # What it comes to in the end is still good for knowing what is stored already.
        self.counts["lookups_late"] += 1
        self._note(tracked, "declined", 0, f"no answer to the lookup within {since * 1e3:.1f} ms")
        tracked.declined = True
        return False

    def _wait(self, asked: _Asked) -> kvtier.Acquired | None:
        """Waits for an answer with what is left of this step's time for that."""
        left = min(self._settings.lookup_wait_us * 1e-6 - self._waited, self._time.left(HOLD_SECONDS))
        if left <= 0:
            return asked.pending.poll()
        before, asked.waited = self._clock(), True
        try:
            # Awake: a sleep would end some 60 us late.
            return asked.pending.poll(left)
        finally:
            self._waited += self._clock() - before

    def _offer(self, tracked: _Tracked, computed_tokens: int) -> tuple[int, bool]:
        """What of the prefix that was found is worth loading."""
        assert tracked.found is not None
        first = computed_tokens // self._unit
        units = len(tracked.found) - first
        if units <= 0:
            self._drop_found(tracked)
            return 0, False
        in_host = min(units, max(0, tracked.found.in_host - first))
        choice = self.gate.choose(computed_tokens, tracked.request.num_tokens, in_host, units - in_host)
        self.counts["gate_probes"] += choice.probe
        if choice.units < units:
            self.counts["gate_declined"] += 1
            self.counts["gate_declined_tokens"] += (units - choice.units) * self._unit
            load = self.gate.load_seconds(in_host, units - in_host) * 1e3
            compute = self.gate.compute_seconds(computed_tokens, computed_tokens + units * self._unit) * 1e3
            why = f"cost gate: loading {units} blocks takes {load:.1f} ms, computing them {compute:.1f} ms"
            self._note(tracked, "declined", units - choice.units, why)
        if choice.units == 0:
            tracked.declined = True
            self._drop_found(tracked)
            return 0, False
        tracked.offered_from, tracked.offered = first, choice.units
        return choice.units * self._unit, True

    # Loads

    def allocated(self, request: Request, block_ids: Sequence[Sequence[int]], loaded_tokens: int) -> None:
        """vLLM has found room for a request, of which `loaded_tokens` are to be loaded."""
        with self._time:
            self._allocate(request, block_ids, loaded_tokens)

    def _allocate(self, request: Request, block_ids: Sequence[Sequence[int]], loaded_tokens: int) -> None:
        tracked = self._track(request)
        self._take_late(tracked)
        tracked.declined = False
        if loaded_tokens == 0 or tracked.found is None:
            self._drop_found(tracked)
            return
        first, count = tracked.offered_from, loaded_tokens // self._unit
        space = self._spaces.find(_adapter(request)) or b""
        keys = self._keys(request, first, first + count)
        blocks = self._blocks(block_ids, first, count)
        self._new_loads.append(Load(request.request_id, space, keys, blocks))
        in_host = min(count, max(0, tracked.found.in_host - first))
        loading = _Loading(tracked.found, first, count, in_host, blocks[0], self._clock(), count)
        self._under_way[request.request_id] = loading
        tracked.found, tracked.offered = None, 0
        self.counts["loads"] += 1
        self.counts["load_tokens"] += loaded_tokens

    def loaded(self, requests: Sequence[str], failed: Sequence[str], invalid: Collection[int] = ()) -> None:
        """Loads have ended; of some nothing counts (`failed`), of others all before their first `invalid` block."""
        with self._time:
            if invalid:
                # Ranks may end in different steps; the blocks of a load are nobody else's.
                for loading in self._under_way.values():
                    loading.whole = min(loading.whole, _before(loading.blocks, invalid))
            for request_id in requests:
                ended = self._under_way.pop(request_id, None)
                if ended is None:
                    continue
                ended.lease.release()
                if request_id in failed:
                    ended.whole = 0
                tracked = self._tracked.get(request_id)
                if tracked is not None:
                    self._settle(tracked, ended)

    def _settle(self, tracked: _Tracked, loading: _Loading) -> None:
        if loading.whole == loading.units:
            self._note(tracked, "loaded", loading.whole, "")
            return
        self._note(tracked, "failed", loading.units - loading.whole, loading.why)
        # The rest is computed now; what of it kvtier still has is a duplicate, and the rest is stored again.
        self.counts["loads_cut"] += 1
        self.counts["load_tokens_lost"] += (loading.units - loading.whole) * self._unit
        tracked.failed = True
        tracked.stored = loading.first + loading.whole if loading.whole else 0

    def learn(self, report: StepReport) -> None:
        """What a step, and the loads that ended with it, have cost. Call before loaded()."""
        with self._time:
            self._learn(report)

    def _learn(self, report: StepReport) -> None:
        if report.tokens:
            self.gate.learn_step(report.tokens, report.pairs, report.seconds)
        learned = 0
        for request_id, end in report.loads.items():
            loading = self._under_way.get(request_id)
            if loading is None:
                continue
            loading.why = loading.why or end.why
            learned += 1
            if learned > LEARNED_MAX:
                continue
            units = end.units or loading.units
            in_host = min(units, loading.in_host)
            # A load that failed at once says nothing; one that took long for nothing does.
            if end.units or end.seconds > self.gate.load_seconds(in_host, units - in_host):
                self.gate.learn_load(in_host, units - in_host, end.seconds)
            if loading.alone and end.units:
                self.gate.learn_report(max(0.0, self._clock() - loading.since - end.seconds))

    # Stores

    def step(self, scheduled: dict[str, int], block_ids: Callable[[str], Sequence[Sequence[int]] | None]) -> Step:
        """What the workers do in this step, in which `scheduled` tokens of each request are computed."""
        step = Step(loads=self._new_loads, parts=self.parts)
        self._new_loads = []
        self._tell()
        storing = self._stores_on and self._link.client() is not None
        # Once for every request that runs, so no more than it takes.
        for request_id, tokens in scheduled.items():
            step.tokens += tokens
            tracked = self._tracked.get(request_id)
            if tracked is None:
                continue
            computed = tracked.request.num_computed_tokens
            if tokens > 1:
                step.pairs += tokens * (computed + tokens / 2)
            if storing and computed + tokens >= (tracked.stored + 1) * self._unit:
                store = self._store(tracked, computed + tokens, block_ids)
                if store is not None:
                    step.stores.append(store)
        if step.tokens:
            for loading in self._under_way.values():
                loading.alone = False
        self._waited, self._turned = 0.0, False
        self._time.begin()
        return step

    def _tell(self, *, last: bool = False) -> None:
        """Tells the daemon what this step and those before have for it, in one piece; not in a step that has used up its
        time, if another one follows."""
        if not last and self._time.left(HOLD_SECONDS) <= 0 and self._untold < UNTOLD_MAX:
            self._untold += 1
            return
        with self._time:
            while self._later:
                # At least one of them.
                self._later.popleft()()
                if self._time.left() <= 0:
                    break
        self._untold += 1
        if not last and self._time.left() <= 0 and self._untold <= UNTOLD_MAX:
            return
        self._untold = 0
        client = self._link.client()
        if client is not None:
            client.nudge()

    def _store(
        self, tracked: _Tracked, computed_tokens: int, block_ids: Callable[[str], Sequence[Sequence[int]] | None]
    ) -> Store | None:
        """Whole units among a request's first `computed_tokens`, after this step, that nobody has stored yet."""
        request = tracked.request
        known = len(request.block_hashes) // self._hashes_per_unit
        units = min(computed_tokens // self._unit, known)
        if self._settings.store == "prompt":
            units = min(units, request.num_prompt_tokens // self._unit)
        first = tracked.stored
        if units <= first:
            return None
        space = self._spaces.find(_adapter(request))
        held = block_ids(request.request_id)
        if space is None or held is None:
            return None
        blocks = self._blocks(held, first, units - first)
        whole = _whole_units(blocks, units - first)
        tracked.stored = units
        if whole == 0:
            return None
        (parent,) = self._keys(request, first - 1, first) if first else [None]
        self.counts["store_units"] += whole
        keys = self._keys(request, first, first + whole)
        return Store(request.request_id, space, keys, parent, [group[:whole] for group in blocks])

    # Ends

    def finished(self, request_id: str) -> None:
        """A request is over, or was given up."""
        tracked = self._tracked.pop(request_id, None)
        if tracked is None:
            return
        self._forget_asked(tracked)
        # A load under way keeps its lease: the workers still write into its blocks.
        self._drop_found(tracked)
        if not self._tracked:
            # There may be no further step for long.
            self._tell(last=True)

    def forget_found(self) -> None:
        """Nothing that was found before counts any more."""
        for tracked in self._tracked.values():
            self._forget_asked(tracked)
            self._drop_found(tracked)
            tracked.stored = 0

    def _take_late(self, tracked: _Tracked) -> None:
        """The request starts, so an answer nobody waited for is only good for knowing what is stored already."""
        if tracked.asked is None:
            return
        try:
            found = tracked.asked.pending.poll()
        except kvtier.Error as error:
            self._fault(tracked.asked.client, error)
            found = None
        if found is not None:
            tracked.stored = max(tracked.stored, len(found))
            found.release()
        self._forget_asked(tracked)

    @property
    def _lease(self) -> float:
        return self._settings.lease_ms / 1000

    def _track(self, request: Request) -> _Tracked:
        tracked = self._tracked.get(request.request_id)
        if tracked is None:
            name = shorten(self._name_of(request.request_id), NAME_MAX)
            tracked = self._tracked[request.request_id] = _Tracked(request, name)
        return tracked

    def _keys(self, request: Request, first: int, end: int) -> list[bytes]:
        """The keys of units of a request, as far as they are full: vLLM's chained hash of a unit's last tokens covers
        everything before them."""
        each = self._hashes_per_unit
        return list(request.block_hashes[(first + 1) * each - 1 : end * each : each])

    def _blocks(self, block_ids: Sequence[Sequence[int]], first: int, count: int) -> list[list[list[int]]]:
        return [
            take_units(block_ids[group], first, count, per_unit)
            for group, per_unit in zip(self._group_ids, self._blocks_per_unit, strict=True)
        ]

    def _forget_asked(self, tracked: _Tracked) -> None:
        """Dropping a pending answer gives its lease back."""
        if tracked.asked is not None:
            self._asking -= 1
            tracked.asked = None

    def _drop_found(self, tracked: _Tracked) -> None:
        tracked.offered = 0
        if tracked.found is not None:
            tracked.found.release()
            tracked.found = None

    def _note(self, tracked: _Tracked, verdict: Verdict, blocks: int, why: str) -> None:
        """Tells the daemon what became of a request, for `kvtier why`. Never waits."""
        if self._time.left() > 0 and not self._later:
            self._report(tracked, verdict, blocks, why)
        elif len(self._later) < LATER_MAX:
            self._later.append(lambda: self._report(tracked, verdict, blocks, why))

    def _report(self, tracked: _Tracked, verdict: Verdict, blocks: int, why: str) -> None:
        report(self._link, self._spaces.find(_adapter(tracked.request)), tracked.name, verdict, blocks, why)

    def _fault(self, client: kvtier.LocalClient, error: kvtier.Error) -> None:
        self.counts["lookups_failed"] += 1
        self._link.lost(client, error)


def _adapter(request: Request) -> tuple[str, str] | None:
    lora = request.lora_request
    return None if lora is None else (lora.lora_name, lora.lora_path)


def _whole_units(blocks: list[list[list[int]]], count: int) -> int:
    """How many units from the first on are in the engine with all their blocks, in every group."""
    for index in range(count):
        for group in blocks:
            if index >= len(group) or not group[index] or NO_BLOCK in group[index]:
                return index
    return count


def _before(blocks: list[list[int]], invalid: Collection[int]) -> int:
    """How many units come before the first one with an invalid block."""
    for index, unit in enumerate(blocks):
        if any(block in invalid for block in unit):
            return index
    return len(blocks)
