"""What the daemon takes of names and notes for `kvtier why`."""

from __future__ import annotations

#: Its bounds for a request's name and a note about it, in bytes.
NAME_MAX, NOTE_MAX = 128, 512


def shorten(text: str, length: int) -> str:
    """As much of a text as it takes: no control characters, and not too long."""
    if len(text) <= length and text.isascii() and text.isprintable():
        return text
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain.encode(errors="replace")[:length].decode(errors="ignore")
