"""Counts what is in a JSON text before it is decoded.

Decoding takes time for every value, not for every byte, and blocks the event loop: 16 MiB of prompt
are decoded in no time, 16 MiB of `[],[],...` are not.
"""

from __future__ import annotations

MOST_CONTAINERS = 1 << 14  # arrays and objects
MOST_MEMBERS = 1 << 15  # names in objects
MOST_VALUES = 1 << 19  # of any kind


class Shape:
    """Counts of what `feed` has seen outside strings. The text may be cut anywhere."""

    def __init__(self) -> None:
        self.containers = 0
        self.members = 0
        self._commas = 0
        self._inside = False  # whether the text so far ends inside a string
        self._rest = b""  # a backslash whose character is in the next piece

    @property
    def values(self) -> int:
        """Values of any kind: never fewer than there really are."""
        return self._commas + self.containers + 1

    def feed(self, part: bytes) -> None:
        """The next bytes of the text."""
        part = (self._rest + part).replace(b"\\\\", b"").replace(b'\\"', b"")
        self._rest = b"\\" if part.endswith(b"\\") else b""
        pieces = part.split(b'"')
        outside = b"".join(pieces[self._inside :: 2])
        self._inside ^= len(pieces) % 2 == 0
        self.containers += outside.count(b"[") + outside.count(b"{")
        self.members += outside.count(b":")
        self._commas += outside.count(b",")

    def excess(self, more: int) -> str:
        """What there is too much of, in words; "" if nothing. more: additional values allowed."""
        for count, most, words in (
            (self.containers, MOST_CONTAINERS, "arrays and objects"),
            (self.members, MOST_MEMBERS, "names in objects"),
            (self.values, MOST_VALUES + more, "values"),
        ):
            if count > most:
                return f"more than {most:,} {words}"
        return ""
