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
from rbee_worker.constraints.words import Words

if TYPE_CHECKING:
    from llguidance import LLMatcher

Masks = NDArray[np.uint32]  # [rows, words]


class Matcher:
    """One answer.

    inner: at the answer's start. ends: ids that may end the answer where the grammar lets it end.
    """

    def __init__(self, inner: LLMatcher, words: Words, ends: Sequence[int]) -> None:
        self._inner = inner
        self._opening = words.opening
        self._end = len(words.tokens)  # the token that stands for the end
        self._ends = [i for i in ends if i < self._end]
        self._width = self._end // 32 + 1
        self._followed = 0

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
        spelled = self._spelled(draft)
        return 0 if spelled[0] < 0 else int(self._inner.validate_tokens(spelled))

    def masks(self, draft: Sequence[int]) -> Masks:
        """What may come next, and after each token of `draft`: [1 + len(draft), words].

        A row without any token: the grammar cannot be followed there.
        """
        found = np.zeros((1 + len(draft), self._width), np.uint32)
        taken = 0
        for row in found:
            if not self._inner.is_stopped():
                self._fill(row, opens=self._followed + taken == 0)
            if taken < len(draft) and not self._inner.is_stopped():
                self._inner.consume_tokens(self._spelled(draft[taken : taken + 1], taken))
                taken += 1
        if taken:
            self._inner.rollback(taken)
        return found

    def _fill(self, row: NDArray[np.uint32], *, opens: bool) -> None:
        self._inner.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        if self._inner.is_error():
            row[:] = 0
            return
        may_end = row[self._end >> 5] >> (self._end & 31) & 1
        if opens and self._opening:
            self._open(row)
        if may_end:
            for i in self._ends:
                row[i >> 5] |= np.uint32(1 << (i & 31))

    def _open(self, row: NDArray[np.uint32]) -> None:
        """Where an answer begins, some tokens spell what others spell later."""
        before = row.copy()
        for i, spelled in self._opening.items():
            word, bit = i >> 5, np.uint32(1 << (i & 31))
            if spelled >= 0 and before[spelled >> 5] >> (spelled & 31) & 1:
                row[word] |= bit
            else:
                row[word] &= ~bit

    def _take(self, tokens: Sequence[int]) -> None:
        self._inner.consume_tokens(self._spelled(tokens))

    def _spelled(self, tokens: Sequence[int], taken: int = 0) -> list[int]:
        """The tokens that spell what these do, if `taken` others were taken since `follow`."""
        spelled = list(tokens)
        if self._followed + taken == 0 and spelled and self._opening:
            spelled[0] = self._opening.get(spelled[0], spelled[0])
        return spelled
