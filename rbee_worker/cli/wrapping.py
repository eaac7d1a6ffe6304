"""Text that streams to a terminal, with lines that end between words."""

from __future__ import annotations

import re
from collections.abc import Callable

from prompt_toolkit.utils import get_cwidth

_PARTS = re.compile(r"\n|[^\S\n]+|\S+")


class Wrapped:
    """Writes pieces of a text, each word as soon as it is complete.

    write: gets the text with its line breaks. width: of the terminal, in columns; a longer word is
    left to the terminal.
    """

    def __init__(self, write: Callable[[str], None], width: int) -> None:
        self._write, self._width = write, width
        self._column = 0
        self._spaces = ""  # before the next word, if it stays on this line
        self._word = ""

    def feed(self, piece: str) -> None:
        """Take a piece of the text."""
        text, self._word = self._word + piece, ""
        parts = _PARTS.findall(text)
        if parts and not parts[-1].isspace():
            self._word = parts.pop()  # more of it may follow
        for part in parts:
            if part == "\n":
                self._break()
            elif part.isspace():
                self._spaces += part
            else:
                self._put(part)

    def end(self) -> None:
        """No more follows."""
        self._put(self._word)
        self._word = self._spaces = ""

    def _put(self, word: str) -> None:
        if not word:
            return
        wide = get_cwidth(word)
        gap = get_cwidth(self._spaces.expandtabs(8))
        if self._column > 0 and self._column + gap + wide > self._width:
            self._break()
            gap = 0
        self._write(self._spaces + word)
        self._column += gap + wide
        if self._column > self._width:  # the terminal has broken the word
            self._column = (self._column - 1) % self._width + 1
        self._spaces = ""

    def _break(self) -> None:
        self._write("\n")
        self._column, self._spaces = 0, ""
