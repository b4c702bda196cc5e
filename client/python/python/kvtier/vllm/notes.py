"""What became of a request, for `kvtier why`, and what the daemon takes of names and notes."""

from __future__ import annotations

from typing import Literal

import kvtier
from kvtier.vllm.link import Link

#: Its bounds for a request's name and a note about it, in bytes.
NAME_MAX, NOTE_MAX = 128, 512

Verdict = Literal["loaded", "declined", "failed"]


def report(link: Link, space: bytes | None, name: str, verdict: Verdict, blocks: int, why: str) -> None:
    """Tells the daemon, if it is there. Never waits."""
    client = link.client()
    if client is None or space is None:
        return
    try:
        client.report(space, name, verdict, blocks=blocks, detail=shorten(why, NOTE_MAX))
    except kvtier.Error as error:
        link.lost(client, error)


def shorten(text: str, length: int) -> str:
    """As much of a text as it takes: no control characters, and not too long."""
    if len(text) <= length and text.isascii() and text.isprintable():
        return text
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain.encode(errors="replace")[:length].decode(errors="ignore")
