"""What the scheduler half tells the worker halves with every step.

Words: a *unit* is the run of tokens of one kvtier block; a *part* of it is what one worker holds of one KV-cache group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

#: The block id vLLM gives to blocks that are not there (outside a sliding window).
NO_BLOCK = 0

#: Engine blocks of one group, unit by unit: NO_BLOCK only, or all of the unit's.
UnitBlocks = list[list[int]]


@dataclass
class Load:
    """Units to bring into the engine's blocks."""

    request: str
    space: bytes
    #: Keys of consecutive units.
    keys: list[bytes]
    #: Per group, the engine blocks of each of these units.
    blocks: list[UnitBlocks]


@dataclass
class Store:
    """Units whose last token is computed in this step."""

    request: str
    space: bytes
    keys: list[bytes]
    #: Key of the unit before the first one; None at the beginning of a prompt.
    parent: bytes | None
    blocks: list[UnitBlocks]


@dataclass
class Step:
    """All of it."""

    loads: list[Load] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    #: Tokens computed in this step, and how many pairs of them and earlier ones of their prompts attend to each other.
    tokens: int = 0
    pairs: float = 0.0
    #: Where the parts of each rank are in a block: (pipeline rank, tensor rank) -> (first part, its offset in bytes).
    parts: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)


@dataclass
class LoadEnd:
    """How a load went for one worker."""

    #: Units from the first on that are whole.
    units: int
    seconds: float
    #: Why the next unit is not there; empty when all are.
    why: str = ""


@dataclass
class StepReport:
    """What the workers tell the scheduler half with the end of a step."""

    #: As in the step, and how long the forward pass took; 0 tokens: nothing was computed, or it was not measured.
    tokens: int = 0
    pairs: float = 0.0
    seconds: float = 0.0
    #: Loads that have ended, by request.
    loads: dict[str, LoadEnd] = field(default_factory=dict)

    def merge(self, other: StepReport) -> StepReport:
        """Of two ranks: the slower one counts, and a unit is whole when both have it."""
        loads = dict(self.loads)
        for request, end in other.loads.items():
            one = loads.get(request, end)
            loads[request] = LoadEnd(min(one.units, end.units), max(one.seconds, end.seconds), one.why or end.why)
        tokens, pairs = (self.tokens, self.pairs) if self.tokens else (other.tokens, other.pairs)
        return StepReport(tokens, pairs, max(self.seconds, other.seconds), loads)


def take_units(blocks: Sequence[int], first: int, count: int, per_unit: int) -> UnitBlocks:
    """The engine blocks of `count` units from unit `first` on, of a group with `per_unit` blocks in a unit."""
    start = first * per_unit
    taken = blocks[start : start + count * per_unit]
    if per_unit == 1:
        return [[block] for block in taken]
    return [list(taken[at : at + per_unit]) for at in range(0, len(taken), per_unit)]
