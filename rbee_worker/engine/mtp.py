"""A model's own layer for further tokens as the maker of drafts (`models/mtp.py`).

Its keys are among the model's: in the blocks of each sequence, at the same positions. So they come
and go with the sequence's state; a prefix that is found again has them too. After each step the
layer computes the step's rows: row i from the model's hidden state at i and token i + 1, which is
known by then. This is done for every sequence, whether it has drafts or not, because a later one
may continue from its blocks. The last of these rows gives the first drafted token; each further one
comes from a row that gets the layer's own result in the place of the model's hidden state. The keys
of such rows are overwritten when the model has computed these positions.

One row may have another key than alone: where two sequences share all of a block and differ in the
token after it, the block's last row is that of the first. Drafts may differ then, tokens never do.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from rbee_worker.engine.proposer import CLOCK, Clock, Proposer
from rbee_worker.engine.scheduler import Chunk
from rbee_worker.engine.sequence import Sequence
from rbee_worker.engine.step_numbers import StepBuilder
from rbee_worker.ops.executable import Executable, StateMemory
from rbee_worker.state.pool import StatePool
from rbee_worker.state.specs import Fixed

Rows = NDArray[np.float32]  # [rows, dim]


class Last(Struct, frozen=True):
    """What the layer has made of the row at position `at`: [dim]"""

    at: int
    row: NDArray[Any]


class MtpDrafts(Proposer):
    """See `Proposer`."""

    def __init__(
        self,
        model: Executable,
        memory: StateMemory,
        pool: StatePool,
        *,
        context: int,
        clock: Clock = CLOCK,
    ) -> None:
        """model: has the layer; memory, pool: of its state. context: the longest sequence."""
        recurrent = any(isinstance(group.spec, Fixed) for group in model.groups)
        super().__init__(context, clock, redoes=recurrent)
        self._model, self._memory, self._pool = model, memory, pool
        self._steps = StepBuilder(model.groups, pool.block_size)
        self._last: dict[Sequence, Last] = {}

    def follow(self, chunks: Seq[Chunk], hidden: Rows) -> None:
        """Compute the rows of a step's chunks whose next token is known."""
        parts: list[Chunk] = []
        tokens: list[int] = []
        rows: list[int] = []
        first = 0
        for chunk in chunks:
            seq, at = chunk.seq, first
            first += chunk.count
            if seq.state is not chunk.state or chunk.state.released:
                continue
            end = min(chunk.state.computed, len(seq.tokens) - 1)
            n = end - chunk.start
            if n > 0:
                parts.append(Chunk(seq, chunk.state, chunk.start, n, 1))
                tokens += seq.tokens[chunk.start + 1 : end + 1]
                rows += range(at, at + n)
        if not parts:
            return
        given = hidden if len(rows) == len(hidden) else hidden[rows]
        self._keep(parts, self._computed(parts, tokens, given))

    def leave(self, seq: Sequence) -> None:
        self._last.pop(seq, None)

    def _drafted(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """Draft so many tokens for each sequence, or fewer where its constraint, its end or the
        memory allows no more."""
        ready = {
            seq: last.row
            for seq in wanted
            if (last := self._last.get(seq)) is not None and last.at == len(seq.tokens) - 2
        }
        # the keys of drafted rows need space, which the step that checks them takes again
        room = {seq: self._pool.widen(seq.state, wanted[seq]) for seq in ready}
        drafts: dict[Sequence, list[int]] = {seq: [] for seq in wanted}
        rows = {seq: row for seq, row in ready.items() if room[seq]}
        try:
            while rows:
                count, began = len(rows), self._clock()
                rows = self._further(rows, drafts, room)
                self.costs.drew(count, self._clock() - began)
        finally:
            for seq, n in room.items():
                self._pool.narrow(seq.state, n)
        return drafts

    def _further(
        self,
        rows: Mapping[Sequence, NDArray[Any]],
        drafts: Mapping[Sequence, list[int]],
        room: Mapping[Sequence, int],
    ) -> dict[Sequence, NDArray[Any]]:
        """Draft one token for each sequence from these rows. Returns the rows that give the next
        ones, where there are to be any."""
        seqs = list(rows)
        logits = self._model.mtp_head(np.stack([rows[seq] for seq in seqs]))
        parts: list[Chunk] = []
        tokens: list[int] = []
        given: list[NDArray[Any]] = []
        for seq, token in zip(seqs, self._guess(logits, seqs, drafts), strict=True):
            if token < 0:
                continue
            at = len(seq.tokens) + len(drafts[seq]) - 1  # of the row that gets this token
            drafts[seq].append(token)
            if len(drafts[seq]) < room[seq] and not seq.rules.ends(token):
                parts.append(Chunk(seq, seq.state, at, 1, 1))
                tokens.append(token)
                given.append(rows[seq])
        if not parts:
            return {}
        found = self._computed(parts, tokens, np.stack(given))
        return {part.seq: row for part, row in zip(parts, found, strict=True)}

    def _computed(self, parts: Seq[Chunk], tokens: Seq[int], rows: Rows) -> Rows:
        """The layer's rows, [N, dim], of these chunks; tokens: after each of them. rows: what it
        gets of the model, or of itself."""
        numbers = self._steps.rows(parts, tokens)
        found = self._model.mtp_hidden(np.ascontiguousarray(rows), self._memory.stage(numbers))
        return self._model.host(found)

    def _keep(self, parts: Seq[Chunk], found: Rows) -> None:
        """Keep the last row of each chunk."""
        end = 0
        for part in parts:
            end += part.count
            self._last[part.seq] = Last(part.end - 1, found[end - 1].copy())
