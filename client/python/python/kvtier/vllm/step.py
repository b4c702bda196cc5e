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
    #: Where the parts of each rank are in a block: (pipeline rank, tensor rank) -> (first part, its offset in bytes).
    parts: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)


def take_units(blocks: Sequence[int], first: int, count: int, per_unit: int) -> UnitBlocks:
    """The engine blocks of `count` units from unit `first` on, of a group with `per_unit` blocks in a unit."""
    start = first * per_unit
    taken = blocks[start : start + count * per_unit]
    if per_unit == 1:
        return [[block] for block in taken]
    return [list(taken[at : at + per_unit]) for at in range(0, len(taken), per_unit)]
