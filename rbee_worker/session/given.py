"""`Given`: what an earlier process gave out of an answer, when another one goes on with it.

The answer is a function of its tokens. So the process that goes on takes the same tokens again,
and drops from what becomes of them as much as was given out: neither the cut of the events nor
what the earlier process still held back has to be known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from rbee_worker.answer_parts import CallPiece, Part
from rbee_worker.types import Event, PromptLogprobs, Started, Token, TokenLogprob

Pieces = tuple[Sequence[Part], Sequence[int], Sequence[TokenLogprob]]


class Given:
    """started: the answer's first event. ids: those in events, with their log-probabilities, which
    tokens that were written and not drawn have none of. scored: tokens of the prompt whose scores
    were given."""

    def __init__(self, events: Iterable[Event]) -> None:
        """events: all that were given out, from the first."""
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.scored = 0
        self._text = self._reasoning = 0  # characters
        self._calls: dict[int, int] = {}  # by the call's number: characters of its arguments
        started = None
        for event in events:
            if isinstance(event, Started):
                started = event
            elif isinstance(event, PromptLogprobs):
                self.scored += len(event.logprobs)
            elif isinstance(event, Token) and event.i >= 0:  # an echoed prompt lies below 0
                self._take(event)
        assert started is not None, "an answer's first event says what was asked"
        self.started = started
        self._ids, self._scores = len(self.ids), len(self.logprobs)

    def _take(self, event: Token) -> None:
        self.ids += event.ids
        self.logprobs += event.logprobs or ()
        self._text += len(event.t)
        self._reasoning += len(event.reasoning)
        for piece in event.calls:
            known = self._calls.get(piece.index, 0)
            self._calls[piece.index] = known + len(piece.arguments)

    def rest(
        self, parts: Sequence[Part], ids: Sequence[int], logprobs: Sequence[TokenLogprob]
    ) -> Pieces:
        """What is new of the next pieces of the answer."""
        known_ids, known_scores = min(self._ids, len(ids)), min(self._scores, len(logprobs))
        self._ids -= known_ids
        self._scores -= known_scores
        fresh = [left for part in parts if (left := self._part(part)) is not None]
        return fresh, ids[known_ids:], logprobs[known_scores:]

    def _part(self, part: Part) -> Part | None:
        """The new characters of a part; None if there are none."""
        if isinstance(part, CallPiece):
            return self._call(part)
        kind, text = part
        if kind == "reasoning":
            known = min(self._reasoning, len(text))
            self._reasoning -= known
        else:
            known = min(self._text, len(text))
            self._text -= known
        return (kind, text[known:]) if text[known:] else None

    def _call(self, piece: CallPiece) -> CallPiece | None:
        """Only a call's first piece has its id and name, so a known call's name was given."""
        if piece.index not in self._calls:
            return piece
        known = min(self._calls[piece.index], len(piece.arguments))
        self._calls[piece.index] -= known
        left = piece.arguments[known:]
        return msgspec.structs.replace(piece, id="", name="", arguments=left) if left else None
