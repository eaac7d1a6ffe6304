"""An answer's markdown on a terminal while it streams.

A block (a paragraph, a list, a table, code) is drawn again as it grows, and stays once the next one
begins. What rich makes of the text is made visible character by character: an answer cannot steer
the terminal, not even by `&#27;`, which markdown turns into an escape character.
"""

from __future__ import annotations

import io
import re
import shutil
import time
from typing import TextIO

from rich.console import Console
from rich.markdown import Markdown
from rich.segment import Segment, Segments

from rbee_worker.observe.visible import visible

WIDEST = 100  # columns; longer lines are hard to read
_DRAW_S = 0.05  # between two drawings of a block that grows
_STYLE = re.compile(r"\x1b\[[\d;]*m")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


class Rendered:
    """Draws an answer on `out`, a terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._text = ""  # of the blocks that are not finished
        self._rows = 0  # that they take on the screen now
        self._drawn = 0.0

    def feed(self, piece: str) -> None:
        """Take a piece of the answer."""
        self._text += visible(piece)
        drawn = self._drawn
        while (whole := finished(self._text))[0]:
            self.clear()
            self._out.write(_ansi(whole[0]) + "\n\n")
            self._text, drawn = whole[1], 0.0
        if time.monotonic() - drawn > _DRAW_S:
            self._draw()

    def end(self) -> None:
        """No more follows: the last block stays as it is."""
        self.clear()
        if self._text.strip():
            self._out.write(_ansi(self._text) + "\n")
        self._text = ""
        self._out.flush()

    def clear(self) -> None:
        """Remove the growing block from the screen, until the next piece draws it again."""
        if self._rows:
            up = f"\x1b[{self._rows - 1}A" if self._rows > 1 else ""
            self._out.write(f"\r{up}\x1b[J")
            self._rows = 0
            self._out.flush()

    def _draw(self) -> None:
        """The growing block; only its end, if it is taller than the screen, where nothing above
        could be removed again."""
        self.clear()
        most = max(1, shutil.get_terminal_size().lines - 2)
        lines = _ansi(self._text).split("\n")[-most:] if self._text.strip() else []
        self._out.write("\n".join(lines))
        self._out.flush()
        self._rows, self._drawn = len(lines), time.monotonic()


def finished(text: str) -> tuple[str, str]:
    """Split a text after its first block, if nothing can change that any more: (it, the rest);
    otherwise ("", the text).

    A block has ended where an empty line is followed by text that is not indented (which could
    belong to a list item), outside of a fence.
    """
    fence, empty, at = "", False, 0
    for line in text.splitlines(keepends=True):
        if not fence and empty and line[:1].strip() and text[:at].strip():
            return text[:at].strip("\n"), text[at:]
        match = _FENCE.match(line)
        if match and not fence:
            fence = match[1]
        elif match and match[1].startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        empty = not fence and not line.strip()
        at += len(line)
    return "", text


def _ansi(text: str) -> str:
    """Markdown as lines with escape sequences of ours only, without a line break at the end."""
    width = min(WIDEST, shutil.get_terminal_size().columns - 1)
    made = io.StringIO()
    console = Console(file=made, width=max(20, width), force_terminal=True, legacy_windows=False)
    markdown = Markdown(text.strip("\n"), code_theme="ansi_dark", hyperlinks=False)
    safe = [
        Segment(visible(part.text), part.style)
        for part in console.render(markdown)
        if not part.control
    ]
    console.print(Segments(safe), end="")
    lines = [line.rstrip() for line in made.getvalue().split("\n")]
    full = [at for at, line in enumerate(lines) if _STYLE.sub("", line).strip()]
    return "\n".join(lines[full[0] : full[-1] + 1]) if full else ""
