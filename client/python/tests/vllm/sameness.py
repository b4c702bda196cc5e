"""Whether answers are the same tokens, and the one excuse there is for a difference."""

from __future__ import annotations

from typing import Any

#: One rounding step of bfloat16 at the size of the largest logits (16 to 32): where the winner of plain vLLM leads by
#: no more, another order of the same additions may turn the two round.
ROUNDING = 0.125


def compare(plain: dict[str, Any], other: dict[str, Any], what: str) -> int:
    """Fails unless the tokens are the same. Returns how many answers turn at a token that plain vLLM itself decided
    within one rounding; `plain` must have margins for that."""
    explained = 0
    for number, (expected, got) in enumerate(zip(plain["tokens"], other["tokens"], strict=True)):
        if expected == got:
            continue
        at = next(index for index, pair in enumerate(zip(expected, got, strict=True)) if pair[0] != pair[1])
        margin = plain["margins"][number][at]
        assert margin <= ROUNDING, (
            f"{what}: answer {number} differs at token {at}, where plain vLLM was sure by {margin}"
        )
        explained += 1
    if explained:
        print(f"{what}: {explained} of {len(plain['tokens'])} answers turn where plain vLLM is within one rounding")
    return explained


def longest_hits(prompts: list[list[int]], unit: int) -> list[int]:
    """Tokens of each prompt that can come from a cache: whole blocks, and never the last token."""
    return [(len(prompt) - 1) // unit * unit for prompt in prompts]
