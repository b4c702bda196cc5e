"""What requests have asked about the daemon's blocks, for vLLM's tiers: one question per chunk, answered together.

    unknown ──lookup──► wanted ──flush: one call for a request──► asked ──answer──► there (promoted OFFERS times at most)
                                                                    │                └──load failed──► missing
                                                                    └──► missing, or late: the daemon is taken for away

vLLM asks chunk by chunk, goes on asking while it is told RETRY, and asks anew in every step; all of a prompt that is
wanted goes out with the end of the step, as one lookup whose answer is a leased prefix. Of groups that keep only the
end of a prompt (sliding windows) what is resident has gaps: those are looked up once the full groups have been, from
the end on. What an answer says holds for its request until that is finished. Nothing here waits. Leases live in the
client; if this process dies, the daemon ends them with its connection.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import kvtier
from kvtier.vllm.link import BROKEN, Link
from kvtier.vllm.notes import NAME_MAX, shorten
from kvtier.vllm.settings import Settings
from kvtier.vllm.step_time import HOLD_SECONDS

#: How often a block that is there may be promoted for one request: a pool too small for a prompt loses its beginning
#: to its end again and again.
OFFERS = 2
#: Lookups on their way at a time; of more, the requests wait a step, as they do when a step has no time for them.
ASKS_MAX = 256
#: Gaps that one lookup of a sparse group looks past.
GAPS_MAX = 64
#: How long the first requests of an engine may wait for the first connection, in seconds.
START_WAIT = 10.0

#: vLLM's keys end with the number of their group.
GROUP_BYTES = 4

#: Verdicts besides "there, for so many more promotions".
MISSING = 0
WAITING = -1


@dataclass
class _Ask:
    """A lookup on its way."""

    request: str
    client: kvtier.LocalClient
    pending: kvtier.Pending[Any]
    keys: list[bytes]
    since: float
    sparse: bool
    again: bool = False


@dataclass
class _Request:
    """What one request knows."""

    #: Per key: MISSING, WAITING, or how often it may still be promoted.
    verdicts: dict[bytes, int] = field(default_factory=dict)
    #: To be asked about with the end of this step, in the order they were wanted.
    wanted: list[bytes] = field(default_factory=list)
    leases: list[kvtier.Acquired] = field(default_factory=list)
    asks: int = 0


class Lookups:
    """Used by one thread, vLLM's scheduler."""

    def __init__(
        self,
        settings: Settings,
        link: Link,
        find_space: Callable[[], bytes | None],
        groups: Collection[bytes],
        sparse: Collection[bytes],
        counts: Counter[str],
        clock: Callable[[], float] = time.monotonic,
        name_of: Callable[[str], str] = str,
    ) -> None:
        self._settings = settings
        self._link = link
        self._find_space = find_space
        #: How keys end, group by group; those of sparse groups.
        self._groups, self._sparse = groups, sparse
        self._clock = clock
        self._name_of = name_of
        self._started = clock()
        self._requests: dict[str, _Request] = {}
        #: Requests with something wanted.
        self._restless: dict[str, None] = {}
        self._asks: deque[_Ask] = deque()
        self.counts = counts

    def lookup(self, request: str, key: bytes) -> bool | None:
        """Whether a block is there; None while that is being asked."""
        known = self._requests.get(request)
        if known is None:
            known = self._requests[request] = _Request()
        verdict = known.verdicts.get(key)
        if verdict is None:
            return self._want(request, known, key)
        if verdict > 0:
            known.verdicts[key] = verdict - 1
            return True
        return False if verdict == MISSING else None

    def known_keys(self, request: str) -> Iterable[bytes]:
        """What a request has asked about, in the order of asking."""
        known = self._requests.get(request)
        return known.verdicts if known is not None else ()

    def _want(self, request: str, known: _Request, key: bytes) -> bool | None:
        if self._link.client() is None:
            # Worth a short wait, once in an engine's life.
            starting = not self._link.settled and self._clock() - self._started < START_WAIT
            return None if starting else False
        known.verdicts[key] = WAITING
        known.wanted.append(key)
        self._restless[request] = None
        return None

    def flush(self) -> None:
        """The end of a step: asks for everything that was wanted in it, or as much as there is time for."""
        began = self._clock()
        for request in list(self._restless):
            if len(self._asks) >= ASKS_MAX or self._clock() - began > HOLD_SECONDS:
                return
            del self._restless[request]
            known = self._requests.get(request)
            if known is not None and known.wanted:
                self._ask_all(request, known)

    def _ask_all(self, request: str, known: _Request) -> None:
        wanted, known.wanted = known.wanted, []
        if len(self._groups) == 1 and not self._sparse:
            self._ask(request, known, wanted, False)
            return
        chains: dict[bytes, list[bytes]] = {}
        sparse: dict[bytes, list[bytes]] = {}
        for key in wanted:
            group = key[-GROUP_BYTES:]
            (sparse if group in self._sparse else chains).setdefault(group, []).append(key)
        for keys in chains.values():
            self._ask(request, known, keys, False)
        chained = known.asks > 0
        for keys in sparse.values():
            if chained:
                # Where the full groups end is where these are worth a look.
                _forget(known, keys)
            else:
                self._ask(request, known, keys, True)

    def _ask(self, request: str, known: _Request, keys: list[bytes], sparse: bool, again: bool = False) -> None:
        client, space = self._link.client(), self._find_space()
        if client is None or space is None:
            self.counts["lookups_away"] += 1
            _decide(known, keys, MISSING)
            return
        lease = self._settings.lease_ms / 1000
        pending: kvtier.Pending[Any]
        try:
            if sparse:
                pending = client.acquire_runs_start(space, keys, lease=lease, gaps_max=GAPS_MAX)
            else:
                name = shorten(self._name_of(request), NAME_MAX)
                pending = client.acquire_start(space, keys, min_tier="nvme", lease=lease, request=name)
        except kvtier.Error as error:
            self._fault(client, error)
            _decide(known, keys, MISSING)
            return
        known.asks += 1
        self.counts["lookups"] += 1
        self._asks.append(_Ask(request, client, pending, keys, self._clock(), sparse, again))

    def poll(self) -> None:
        """Takes the answers that are there."""
        for _ in range(len(self._asks)):
            ask = self._asks.popleft()
            if not self._answered(ask):
                self._asks.append(ask)

    def _answered(self, ask: _Ask) -> bool:
        """Whether nothing is to be waited for any more."""
        known = self._requests.get(ask.request)
        if known is None:
            return True
        try:
            found = ask.pending.poll()
        except kvtier.Error as error:
            known.asks -= 1
            if isinstance(error, BROKEN) and not ask.again:
                # A daemon that was restarted unnoticed answers the second time.
                self._ask(ask.request, known, ask.keys, ask.sparse, again=True)
            else:
                self._fault(ask.client, error)
                _decide(known, ask.keys, MISSING)
            return True
        if found is None:
            if self._clock() - ask.since <= self._settings.lookup_timeout_ms / 1000:
                return False
            known.asks -= 1
            self._fault(ask.client, kvtier.TimedOut("no answer to a lookup in time"))
            _decide(known, ask.keys, MISSING)
            return True
        known.asks -= 1
        self._take_sparse(known, ask, found) if ask.sparse else self._take(known, ask, found)
        return True

    def _take(self, known: _Request, ask: _Ask, found: kvtier.Acquired) -> None:
        if found.miss is not None:
            self.counts[f"miss_{found.miss.reason}"] += 1
        _decide(known, ask.keys[: len(found)], OFFERS)
        _decide(known, ask.keys[len(found) :], MISSING)
        if len(found):
            known.leases.append(found)

    def _take_sparse(
        self, known: _Request, ask: _Ask, found: tuple[list[tuple[int, kvtier.Acquired]], int]
    ) -> None:
        runs, end = found
        _decide(known, ask.keys[:end], MISSING)
        for at, run in runs:
            _decide(known, ask.keys[at : at + len(run)], OFFERS)
            known.leases.append(run)
        # The rest was not looked at, and is asked about again if it matters.
        _forget(known, ask.keys[end:])

    def failed(self, request: str, keys: Sequence[bytes]) -> None:
        """A load did not bring these: they are computed, and not offered to this request again."""
        known = self._requests.get(request)
        if known is not None:
            _decide(known, keys, MISSING)

    def loaded(self, request: str) -> None:
        """A load has ended: what it found need not stay for it."""
        known = self._requests.get(request)
        if known is not None and not known.asks:
            _release(known)

    def finished(self, request: str) -> None:
        """A request is over."""
        known = self._requests.pop(request, None)
        self._restless.pop(request, None)
        if known is not None:
            if known.asks:
                # Dropping a pending answer gives its lease back.
                self._asks = deque(ask for ask in self._asks if ask.request != request)
            _release(known)

    def forget(self) -> None:
        """Nothing that was found before counts any more."""
        for known in self._requests.values():
            _release(known)
        self._requests.clear()
        self._restless.clear()
        self._asks.clear()

    def _fault(self, client: kvtier.LocalClient, error: kvtier.Error) -> None:
        self.counts["lookups_failed"] += 1
        self._link.lost(client, error)


def _decide(known: _Request, keys: Iterable[bytes], verdict: int) -> None:
    known.verdicts.update(dict.fromkeys(keys, verdict))


def _forget(known: _Request, keys: Iterable[bytes]) -> None:
    for key in keys:
        known.verdicts.pop(key, None)


def _release(known: _Request) -> None:
    for lease in known.leases:
        lease.release()
    known.leases.clear()
