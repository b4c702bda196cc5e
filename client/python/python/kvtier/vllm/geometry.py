"""Where the bytes of a block are in the engine's KV cache.

One worker holds, per KV-cache group, a tensor per layer; an engine block is a page of each. A part of a kvtier block
is, layer after layer in the group's order, the pages of the engine blocks of one unit. The tensors are vLLM's: this
keeps views of their storage, as long as the connector lives, and touches them only between the calls of one load or
store.
"""

# mypy: disable-error-code="import-not-found,no-any-return"
# The package is type-checked without vLLM, torch and blake3.

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtier.vllm.step import NO_BLOCK, UnitBlocks

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch


class Unsupported(Exception):
    """This engine's KV cache cannot be kept in kvtier; the message says why."""


@dataclass(frozen=True)
class LayerPlace:
    """The pages of one layer, in bytes."""

    buffer: int
    offset: int
    stride: int
    page: int


@dataclass(frozen=True)
class GroupShape:
    """What one worker has of one KV-cache group, as far as it decides the bytes of a part."""

    kind: str
    tokens_per_block: int
    blocks_per_unit: int
    dtype: str
    #: Shape of a layer's page, layer by layer.
    page_shapes: tuple[tuple[int, ...], ...]
    page_bytes: tuple[int, ...]
    layers: tuple[str, ...]
    #: How the attention kernels of these layers pack a page.
    packing: str

    @property
    def part_bytes(self) -> int:
        return self.blocks_per_unit * sum(self.page_bytes)


@dataclass(frozen=True)
class WorkerShape:
    """What one worker tells the scheduler half about itself. Plain values only: it travels between processes."""

    device: str
    layout: str
    groups: tuple[GroupShape, ...]
    #: Why this worker cannot take part; empty when it can.
    problem: str = ""

    @property
    def part_bytes(self) -> tuple[int, ...]:
        return tuple(group.part_bytes for group in self.groups)

    def describe(self) -> dict[str, Any]:
        return asdict(self)


class Pages:
    """The pages of a worker's KV cache, and copies in terms of units."""

    def __init__(
        self, shape: WorkerShape, buffers: list[npt.NDArray[np.uint8]], places: list[list[LayerPlace]]
    ) -> None:
        self.shape = shape
        self.buffers = buffers
        self._groups = [_Group(group, held) for group, held in zip(shape.groups, places, strict=True)]

    def segments(self, group: int, units: UnitBlocks, indices: list[int], part_offset: int) -> npt.NDArray[np.int64]:
        """Rows (block, offset in it, buffer, offset in it, length) that move part `group` of `units`; `indices` are the
        positions of these units among the blocks of the call, `part_offset` where the part begins in a block."""
        return self._groups[group].segments(units, indices, part_offset)


class _Group:
    """The same for one group, with its constants ready."""

    def __init__(self, shape: GroupShape, places: list[LayerPlace]) -> None:
        self.blocks_per_unit = shape.blocks_per_unit
        self.buffer = np.array([place.buffer for place in places], dtype=np.int64)
        self.offset = np.array([place.offset for place in places], dtype=np.int64)
        self.stride = np.array([place.stride for place in places], dtype=np.int64)
        self.page = np.array([place.page for place in places], dtype=np.int64)
        before = np.cumsum(self.page) - self.page
        # Where layer l's page of the unit's block b begins in the part: [blocks_per_unit, layers].
        within = np.arange(self.blocks_per_unit, dtype=np.int64)[:, None] * self.page[None, :]
        self.at = before[None, :] * self.blocks_per_unit + within

    def segments(self, units: UnitBlocks, indices: list[int], part_offset: int) -> npt.NDArray[np.int64]:
        here = [(index, unit) for index, unit in zip(indices, units, strict=True) if NO_BLOCK not in unit]
        if not here:
            return np.empty((0, 5), dtype=np.int64)
        index = np.array([index for index, _ in here], dtype=np.int64)[:, None, None]
        block = np.array([unit for _, unit in here], dtype=np.int64)[:, :, None]
        rows = np.empty((len(here), self.blocks_per_unit, len(self.page), 5), dtype=np.int64)
        rows[..., 0] = index
        rows[..., 1] = part_offset + self.at[None]
        rows[..., 2] = self.buffer
        rows[..., 3] = self.offset + block * self.stride
        rows[..., 4] = self.page
        return rows.reshape(-1, 5)


@dataclass(frozen=True)
class GroupPlan:
    """One KV-cache group as vLLM configured it."""

    kind: str
    tokens_per_block: int
    layers: tuple[str, ...]
    packing: str = ""


def measure(
    tensors: dict[str, torch.Tensor], groups: list[GroupPlan], num_blocks: int, unit_tokens: int, layout: str
) -> Pages:
    """Finds the pages of these groups in the engine's tensors. Raises Unsupported."""
    buffers: list[npt.NDArray[np.uint8]] = []
    known: dict[int, int] = {}
    shapes: list[GroupShape] = []
    places: list[list[LayerPlace]] = []
    device = "cpu"
    for group in groups:
        held: list[LayerPlace] = []
        page_shapes: list[tuple[int, ...]] = []
        dtypes: set[str] = set()
        for layer in group.layers:
            tensor = tensors.get(layer)
            if tensor is None or not hasattr(tensor, "untyped_storage"):
                raise Unsupported(f"layer {layer} has no single KV tensor")
            if tensor.device.type != "cpu":
                raise Unsupported(f"the KV cache is on {tensor.device}; only engines on CPUs are supported so far")
            held.append(_find(layer, tensor, num_blocks, buffers, known))
            page_shapes.append(tuple(tensor.shape[1:]))
            dtypes.add(str(tensor.dtype).removeprefix("torch."))
        if unit_tokens % group.tokens_per_block:
            raise Unsupported(f"blocks of {group.tokens_per_block} tokens do not divide units of {unit_tokens}")
        shapes.append(
            GroupShape(
                kind=group.kind,
                tokens_per_block=group.tokens_per_block,
                blocks_per_unit=unit_tokens // group.tokens_per_block,
                dtype="+".join(sorted(dtypes)),
                page_shapes=tuple(page_shapes),
                page_bytes=tuple(place.page for place in held),
                layers=group.layers,
                packing=group.packing,
            )
        )
        places.append(held)
    return Pages(WorkerShape(device, layout, tuple(shapes)), buffers, places)


def _find(
    layer: str, tensor: torch.Tensor, num_blocks: int, buffers: list[npt.NDArray[np.uint8]], known: dict[int, int]
) -> LayerPlace:
    """The pages of one layer. A page must lie in one piece, and the first dimension must count blocks."""
    import torch

    if tensor.shape[0] % num_blocks or not tensor[0].is_contiguous():
        raise Unsupported(
            f"layer {layer}: pages of a tensor {tuple(tensor.shape)} for {num_blocks} blocks are scattered"
        )
    # The kernels may divide a block into smaller ones, which then follow each other.
    pieces = tensor.shape[0] // num_blocks
    size = tensor.element_size()
    stride, page = tensor.stride(0) * size, tensor[0].numel() * size
    if pieces > 1 and stride != page:
        raise Unsupported(f"layer {layer}: the {pieces} pieces of a block lie apart")
    storage = tensor.untyped_storage()
    if storage.data_ptr() not in known:
        known[storage.data_ptr()] = len(buffers)
        buffers.append(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())
    offset = tensor.storage_offset() * size
    return LayerPlace(known[storage.data_ptr()], offset, stride * pieces, page * pieces)
