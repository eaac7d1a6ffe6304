"""An answer of `chat` on the terminal: reasoning in grey, then the text, as markdown where the
terminal can show it."""

from __future__ import annotations

import shutil
import sys

from rbee_worker.cli.terminal import aside, dim, is_rich
from rbee_worker.cli.wrapping import Wrapped
from rbee_worker.observe.visible import visible
from rbee_worker.types import Narration


class Shown:
    """One answer. said: the pieces of its text so far."""

    def __init__(self) -> None:
        self.said: list[str] = []
        width = shutil.get_terminal_size().columns
        self._thoughts = Wrapped(self._think, width)
        self._thought = False
        self._plain = Wrapped(self._write, width)
        self._rendered = None
        if is_rich(sys.stdout):
            from rbee_worker.cli.markdown import Rendered

            self._rendered = Rendered(sys.stdout)

    def answer(self, piece: str) -> None:
        """Take a piece of the text."""
        if not self.said:
            self._end_thoughts()
        self.said.append(piece)
        if self._rendered is not None:
            self._rendered.feed(piece)
        else:
            self._plain.feed(visible(piece))

    def reasoning(self, piece: str) -> None:
        """Take a piece of the reasoning."""
        self._thought = True
        self._thoughts.feed(visible(piece))

    def narration(self, narration: Narration) -> None:
        """Tell what happens, above what is still growing."""
        if self._rendered is not None:
            self._rendered.clear()
        aside(narration.human)

    def end(self) -> None:
        """Nothing follows."""
        if not self.said:
            self._end_thoughts()
        if self._rendered is not None:
            self._rendered.end()
        else:
            self._plain.end()
            self._write("\n")

    def _end_thoughts(self) -> None:
        if self._thought:
            self._thoughts.end()
            sys.stderr.write("\n\n")
            sys.stderr.flush()

    @staticmethod
    def _think(text: str) -> None:
        sys.stderr.write(dim(text, sys.stderr))
        sys.stderr.flush()

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
