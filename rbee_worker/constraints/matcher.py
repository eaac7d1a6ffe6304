"""`Matcher`: follows one answer under its grammar, and says which tokens may come next.

A mask is a bit for every token: see `ops.sampling.Bits`. Tokens that end an answer are no text:
they may be drawn exactly where the answer may end. What may come next is a function of the grammar
and of the tokens so far, so it is the same after a preemption and in another engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rbee_worker.constraints.compiled import reason
from rbee_worker.constraints.words import NOTHING, NOWHERE, Words

if TYPE_CHECKING:
    from llguidance import LLMatcher

Masks = NDArray[np.uint32]  # [rows, words]


class Opening:
    """A vocabulary's tokens where an answer begins: some spell there what others spell later."""

    def __init__(self, words: Words) -> None:
        self.size = len(words.tokens)
        self.spelled = words.opening
        self._ids = np.array(list(words.opening), np.int64)
        self._others = np.array(list(words.opening.values()), np.int64)

    def apply(self, row: NDArray[np.uint32]) -> None:
        """Turn what may come later into what may come first."""
        if not self.spelled:
            return
        bits = np.unpackbits(row.view(np.uint8), bitorder="little")
        others = self._others
        bits[self._ids] = np.where(others >= 0, bits[np.maximum(others, 0)], others == NOTHING)
        row[:] = np.packbits(bits, bitorder="little").view(np.uint32)


class Matcher:
    """One answer.

    inner: at the answer's start. ends: ids that may end the answer where the grammar lets it end.
    """

    def __init__(self, inner: LLMatcher, opening: Opening, ends: Sequence[int]) -> None:
        self._inner = inner
        self._opening = opening
        self._end = opening.size  # the token that stands for the end
        self._ends = [i for i in ends if i < self._end]
        self._width = self._end // 32 + 1
        self._followed = 0
        self._next: tuple[int, NDArray[np.uint32]] | None = None  # tokens followed, what may come

    def follow(self, tokens: Sequence[int], start: int) -> None:
        """Take the answer's tokens, tokens[start:], as far as they are new. None of them may be an
        end."""
        new = tokens[start + self._followed :]
        if new:
            self._take(new)
            self._followed += len(new)

    @property
    def complete(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return bool(self._inner.is_stopped()) and not self._inner.is_error()

    @property
    def error(self) -> str:
        """Why the grammar cannot be followed any further; "" if it can."""
        return reason(self._inner) if self._inner.is_error() else ""

    def admits(self, draft: Sequence[int]) -> int:
        """How many of the tokens that may come next the grammar allows."""
        if not draft or self._inner.is_stopped():
            return 0
        if self._followed == 0 and self._opening.spelled.get(draft[0]) == NOWHERE:
            return 0
        spelled = self._spelled(draft)
        silent = len(draft) - len(spelled)
        return silent + (int(self._inner.validate_tokens(spelled)) if spelled else 0)

    def only(self) -> int | None:
        """The one token that may come next, if there is only one and it is no end."""
        if self._inner.is_stopped():
            return None
        row = self.masks(())[0]
        self._next = self._followed, row
        places = row.nonzero()[0]
        if len(places) != 1:
            return None
        place, bits = int(places[0]), int(row[places[0]])
        token = 32 * place + bits.bit_length() - 1
        return token if bits.bit_count() == 1 and token < self._end else None

    def masks(self, draft: Sequence[int]) -> Masks:
        """What may come next, and after each token of `draft`: [1 + len(draft), words].

        A row without any token: the grammar cannot be followed there. Nothing may be written to
        them: a row that `only` has looked at is given out as it is.
        """
        known = self._next
        if not draft and known is not None and known[0] == self._followed:
            return known[1][None]
        found = np.zeros((1 + len(draft), self._width), np.uint32)
        taken = consumed = 0
        for number, row in enumerate(found):
            if number == 0 and known is not None and known[0] == self._followed:
                row[:] = known[1]
            elif not self._inner.is_stopped():
                self._fill(row, opens=self._followed + taken == 0)
            if taken < len(draft) and not self._inner.is_stopped():
                spelled = self._spelled(draft[taken : taken + 1], taken)
                self._inner.consume_tokens(spelled)
                taken += 1
                consumed += len(spelled)
        if consumed:
            self._inner.rollback(consumed)
        return found

    def _fill(self, row: NDArray[np.uint32], *, opens: bool) -> None:
        self._inner.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        if self._inner.is_error():
            row[:] = 0
            return
        may_end = row[self._end >> 5] >> (self._end & 31) & 1
        if opens:
            self._opening.apply(row)
        if may_end:
            for i in self._ends:
                row[i >> 5] |= np.uint32(1 << (i & 31))

    def _take(self, tokens: Sequence[int]) -> None:
        self._inner.consume_tokens(self._spelled(tokens))

    def _spelled(self, tokens: Sequence[int], taken: int = 0) -> list[int]:
        """The tokens that spell what these do, if `taken` others were taken since `follow`."""
        if self._followed + taken or not tokens:
            return list(tokens)
        first = self._opening.spelled.get(tokens[0], tokens[0])
        return [*([] if first == NOTHING else [first]), *tokens[1:]]
