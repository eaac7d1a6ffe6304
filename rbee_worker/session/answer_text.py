"""`AnswerText`: the ids of an answer become characters, and the characters parts to be given out.

Ids wait until a character is complete; characters wait while they could become a stop string. The
output is append-only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from rbee_worker.answer_parts import Part
from rbee_worker.sequence_end import StopRecord
from rbee_worker.session.ending import matched_record
from rbee_worker.session.event_queue import EventQueue
from rbee_worker.session.prepared import Prepared
from rbee_worker.session.sieve import Sieve
from rbee_worker.session.stop_strings import StopMatcher
from rbee_worker.session.text import TextSide
from rbee_worker.types import TokenLogprob


class AnswerText:
    """output_ids: all ids drawn and kept so far; reasoned: how many of them are reasoning.

    waiting, logprobs: ids whose text has not come out yet. matched_at: how many ids there were when
    the text itself ended the answer (see `ending.matched_record`); None: it has not.
    """

    def __init__(
        self, request_id: str, prepared: Prepared, text: TextSide, events: EventQueue
    ) -> None:
        """events: get the parts."""
        params = prepared.resolved.params
        self.output_ids: list[int] = []
        self.reasoned = 0
        self.waiting: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.matched_at: int | None = None
        self._events = events
        self._params = params
        self._reading = reading = prepared.reading
        self._tokenizer = text.tokenizer
        self._stream = text.stream(params.skip_special_tokens)
        reader = None if reading is None else reading.reader(request_id)
        matcher = StopMatcher(params.stop, armed=False) if params.stop else None
        self._sieve = Sieve(matcher, reader) if matcher or reader else None
        self._mute = set(params.stop_token_ids)  # ids that end the answer and are not in its text
        if params.skip_special_tokens and not params.ignore_eos:
            self._mute.update(e.id for e in text.eos)
        self._ends = {*params.stop_token_ids}  # ids that end the answer
        if not params.ignore_eos:
            self._ends.update(e.id for e in text.eos)
        # special tokens without visible text, which a stop string may still contain
        self._hidden = text.tokenizer.special_ids if params.skip_special_tokens else frozenset()
        self._starts: list[int] = []  # for each waiting id: the characters before its first one
        self._pushed = 0  # characters; counted only if there is a sieve

    def push(self, token_id: int, logprob: TokenLogprob | None = None) -> None:
        """Take one id. It goes into the first event that shows a character at or after the id's own
        first character; an id without characters waits for the next character shown."""
        self.output_ids.append(token_id)
        if logprob is not None:
            self.logprobs.append(logprob)
        text = "" if token_id in self._mute else self._stream.push(token_id)
        self.waiting.append(token_id)
        if self._sieve is None:
            if text:
                self._give([("text", text)], len(self.waiting))
            return
        thinking = self._sieve.thinking
        self._starts.append(self._pushed)
        self._pushed += len(text)
        parts = self._filter(text)
        if token_id in self._hidden and token_id not in self._mute:
            parts += self._filter(self._tokenizer.token_text(token_id), hidden=True)
        self.reasoned += thinking or self._sieve.thinking
        if parts:
            leaving = bisect_left(self._starts, self._sieve.passed)
            del self._starts[:leaving]
            self._give(parts, leaving)

    def flush(self) -> list[Part]:
        """The answer ends here: the rest of it, which no event has had."""
        tail: list[Part] = []
        if self.matched_at is None:
            tail += self._filter(self._stream.flush())
        if self._sieve is not None:
            tail += self._sieve.flush()
        return tail

    def matched(self) -> StopRecord | None:
        """The record of an answer that its text has ended; None if it has not."""
        if self.matched_at is None:
            return None
        assert self._sieve is not None
        return matched_record(self._sieve, self.matched_at)

    def budget_is_spent(self) -> bool:
        """Whether the reasoning must end here, though not within a character. An answer that ends
        by itself is left alone."""
        reading, output = self._reading, self.output_ids
        if reading is None or reading.budget is None or self._sieve is None:
            return False
        if not self._sieve.thinking or self.reasoned < reading.budget:
            return False
        ended = bool(output) and output[-1] in self._ends
        return not (ended or self._stream.within) and len(output) < self._params.max_tokens

    def end_reasoning(self) -> None:
        """Write the mark that ends the reasoning, as if it had been drawn."""
        assert self._reading is not None
        left = self._params.max_tokens - len(self.output_ids)
        for token_id in self._reading.reasoning_end[:left]:
            self.push(token_id)

    def _give(self, parts: Sequence[Part], leaving: int) -> None:
        """Give out parts of the answer with the next `leaving` ids."""
        self._events.push(parts, self.waiting[:leaving], self.logprobs[:leaving])
        del self.waiting[:leaving], self.logprobs[:leaving]

    def _filter(self, text: str, *, hidden: bool = False) -> list[Part]:
        """What may be given out after `text` has come; hidden: `text` itself must not be."""
        if self._sieve is None:
            return [("text", text)] if text else []
        armed = len(self.output_ids) > self._params.min_tokens
        parts = self._sieve.push(text, hidden=hidden, armed=armed)
        if self._sieve.done:
            self.matched_at = len(self.output_ids)
        return parts
