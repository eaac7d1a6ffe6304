"""From the characters of an answer to the parts that are given out: stop strings end it, and its
format takes it apart."""

from __future__ import annotations

from rbee_worker.answer import Reader
from rbee_worker.answer_parts import Part
from rbee_worker.session.stop_strings import StopMatcher


class Sieve:
    """passed: visible characters that were given out, or used up as marks."""

    def __init__(self, matcher: StopMatcher | None, reader: Reader | None) -> None:
        self.matcher = matcher
        self.reader = reader
        self._shown = 0

    @property
    def passed(self) -> int:
        return self._shown - (0 if self.reader is None else self.reader.held)

    @property
    def thinking(self) -> bool:
        """Whether the characters that come now are reasoning."""
        return self.reader is not None and self.reader.thinking

    @property
    def done(self) -> bool:
        """Whether the answer ends here: a stop string is complete, or a call too many began."""
        matched = self.matcher is not None and self.matcher.found is not None
        return matched or (self.reader is not None and self.reader.full)

    def push(self, text: str, *, hidden: bool = False, armed: bool = True) -> list[Part]:
        """The parts that may be given out after `text` has come. hidden: it is the text of a
        special token, which is not shown itself. armed: stop strings count."""
        if self.matcher is None:
            return self._read([(text, hidden)])
        self.matcher.armed = armed
        return self._read(self.matcher.runs(text, hidden=hidden))

    def flush(self) -> list[Part]:
        """The answer ends here: what was held back."""
        parts: list[Part] = []
        if self.matcher is not None:
            parts += self._read(self.matcher.rest())
        if self.reader is not None:
            parts += self.reader.flush()
        return parts

    def _read(self, runs: list[tuple[str, bool]]) -> list[Part]:
        parts: list[Part] = []
        for text, hidden in runs:
            if not hidden:
                self._shown += len(text)
            if self.reader is not None:
                parts += self.reader.push(text, hidden=hidden)
            elif text and not hidden:
                parts.append(("text", text))
        return parts
