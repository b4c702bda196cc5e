import numpy as np
import pytest
import torch
from kvtier.vllm.geometry import GroupPlan, Unsupported, measure
from kvtier.vllm.step import take_units

BLOCKS = 6


def plan(*layers: str, tokens: int = 16) -> GroupPlan:
    return GroupPlan("FullAttentionSpec", tokens, layers, "CPU_ATTN/vec")


def layer(seed: int, pieces: int = 1) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(BLOCKS * pieces, 2, 16 // pieces, 8).to(torch.bfloat16)


def gather(pages: object, rows: np.ndarray, count: int, size: int) -> np.ndarray:
    """What the segments bring together, block by block."""
    out = np.zeros((count, size), dtype=np.uint8)
    for block, at, buffer, start, length in rows:
        out[block, at : at + length] = pages.buffers[buffer][start : start + length]  # type: ignore[attr-defined]
    return out


def page(tensor: torch.Tensor, *blocks: int) -> bytes:
    return b"".join(tensor[block].contiguous().view(torch.uint8).numpy().tobytes() for block in blocks)


def test_a_part_is_the_pages_of_its_unit_layer_after_layer() -> None:
    a, b = layer(1), layer(2)
    pages = measure({"a": a, "b": b}, [plan("a", "b")], BLOCKS, 16, "LBHNC")
    size = pages.shape.part_bytes[0]
    out = gather(pages, pages.segments(0, [[4], [1]], [0, 1], 0), 2, size)
    assert out[0].tobytes() == page(a, 4) + page(b, 4)
    assert out[1].tobytes() == page(a, 1) + page(b, 1)


def test_units_of_several_blocks_keep_the_blocks_of_a_layer_together() -> None:
    a, b = layer(1), layer(2)
    pages = measure({"a": a, "b": b}, [plan("a", "b")], BLOCKS, 32, "LBHNC")
    out = gather(pages, pages.segments(0, take_units([5, 0, 3, 2], 1, 1, 2), [0], 0), 1, pages.shape.part_bytes[0])
    assert out[0].tobytes() == page(a, 3, 2) + page(b, 3, 2)


def test_layers_in_one_storage_with_gaps_are_found() -> None:
    whole = torch.arange(BLOCKS * 2 * 2 * 16 * 8, dtype=torch.int16).view(torch.bfloat16).view(BLOCKS, 2, 2, 16, 8)
    a, b = whole[:, 0], whole[:, 1]
    pages = measure({"a": a, "b": b}, [plan("a", "b")], BLOCKS, 16, "BLHNC")
    assert len(pages.buffers) == 1
    out = gather(pages, pages.segments(0, [[2]], [0], 0), 1, pages.shape.part_bytes[0])
    assert out[0].tobytes() == page(a, 2) + page(b, 2)


def test_kernel_blocks_smaller_than_the_engines_make_one_page() -> None:
    a = layer(3, pieces=2)
    pages = measure({"a": a}, [plan("a")], BLOCKS, 16, "LBHNC")
    out = gather(pages, pages.segments(0, [[3]], [0], 0), 1, pages.shape.part_bytes[0])
    assert out[0].tobytes() == page(a, 6, 7)


def test_units_outside_a_window_move_nothing() -> None:
    pages = measure({"a": layer(1)}, [plan("a")], BLOCKS, 16, "LBHNC")
    rows = pages.segments(0, [[0], [0], [5]], [0, 1, 2], 100)
    assert rows[:, 0].tolist() == [2]
    assert rows[0, 1] == 100


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (layer(1).transpose(1, 2), "scattered"),
        (layer(1)[: BLOCKS - 1], "scattered"),
        (layer(1).to("meta"), "only engines on CPUs"),
    ],
)
def test_tensors_whose_pages_cannot_be_copied_are_refused(tensor: torch.Tensor, why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        measure({"a": tensor}, [plan("a")], BLOCKS, 16, "LBHNC")
