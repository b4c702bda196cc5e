"""Whether answers are the same tokens, and the one excuse there is for a difference."""

from __future__ import annotations

import hashlib
from typing import Any

import kvtier

#: One rounding step of bfloat16 at the size of the largest logits (16 to 32): where the winner of plain vLLM leads by
#: no more, another order of the same additions may turn the two round.
ROUNDING = 0.125
#: In a batch every matrix has another shape than for one request, so either of the two logits may come out one step off.
ROUNDING_BATCHED = 2 * ROUNDING


def compare(plain: dict[str, Any], other: dict[str, Any], what: str, *, batched: bool = False) -> int:
    """Fails unless the tokens are the same. Returns how many answers turn at a token that plain vLLM itself decided
    within one rounding; `plain` must have margins for that. `batched`: only one of the two ran in batches."""
    margins = turned(plain, other)
    for margin in margins:
        assert margin <= (ROUNDING_BATCHED if batched else ROUNDING), (
            f"{what}: an answer differs at a token where plain vLLM was sure by {margin}"
        )
    if margins:
        print(f"{what}: {len(margins)} of {len(plain['tokens'])} answers turn, where plain vLLM leads by {margins}")
    return len(margins)


def turned(plain: dict[str, Any], other: dict[str, Any]) -> list[float]:
    """By how much plain vLLM preferred its own token to the second, for each answer that is not the same, where it turns."""
    margins = []
    for number, (expected, got) in enumerate(zip(plain["tokens"], other["tokens"], strict=True)):
        if expected != got:
            at = next(index for index, pair in enumerate(zip(expected, got, strict=True)) if pair[0] != pair[1])
            margins.append(plain["margins"][number][at])
    return margins


def longest_hits(prompts: list[list[int]], unit: int) -> list[int]:
    """Tokens of each prompt that can come from kvtier: whole blocks. vLLM counts them all, and computes the last token of
    a prompt of nothing else again. Its own cache has a block less of such a prompt."""
    return [len(prompt) // unit * unit for prompt in prompts]


def stored_digests(daemon: Any, keys: list[str], suffix: bytes = b"") -> dict[str, str]:
    """The bytes kvtier holds for these blocks of vLLM's, whose hashes are its keys but for a suffix."""
    with kvtier.Client(daemon.unix) as client:
        (space,) = [one.space for one in client.spaces()]
    held: dict[str, str] = {}
    with kvtier.LocalClient(daemon.local, tenant="default", role="reader") as local:
        for key in keys:
            with local.acquire(space, [bytes.fromhex(key) + suffix]) as found:
                if len(found):
                    held[key] = hashlib.sha256(memoryview(found[0])).hexdigest()
    return held
