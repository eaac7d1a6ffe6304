"""Text from ids, one at a time; text that was given out never changes.

What `push` and `flush` return adds up to exactly what `Tokenizer.decode` gives for the same ids.
This module knows nothing of stop strings.
"""

from __future__ import annotations

from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.pieces import Utf8Stream


class Detokenizer:
    """Append-only; one per sequence.

    `pending`: the number of ids pushed since text last came out; they completed no character.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special else frozenset()
        self._utf8 = Utf8Stream(per_byte=tokenizer.decoding.byte_fallback)
        self._strip = tokenizer.decoding.strip_left
        self._first = True
        self.pending = 0

    @property
    def within(self) -> bool:
        """Whether a character is not complete yet."""
        return self._utf8.within

    def push(self, token_id: int) -> str:
        """The characters that `token_id` completes, '' if none. Amortised O(1)."""
        self.pending += 1
        if token_id in self._skipped:
            return ""
        if self._first:
            data = self._tokenizer.opening_bytes(token_id)
            if data is None:
                return ""  # an id without a token does not open the text either
            self._first = False
        else:
            data = self._tokenizer.joined_bytes(token_id)
        return self._emit(self._utf8.push(data))

    def flush(self) -> str:
        """The text that was held back, incomplete as it is: the sequence has ended."""
        return self._emit(self._utf8.push(b"", final=True))

    def _emit(self, text: str) -> str:
        if not text:
            return ""
        while self._strip and text.startswith(" "):
            text = text[1:]
            self._strip -= 1
        if text:
            self._strip = 0
            self.pending = 0
        return text
