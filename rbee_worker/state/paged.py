"""Paged groups: which blocks a sequence holds, and which of them queries still read."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from rbee_worker.state.blocks import SINK, BlockAllocator
from rbee_worker.state.group import PoolGroup
from rbee_worker.state.sequence import SeqState, Table
from rbee_worker.state.specs import Fixed, PagedKV, StateGroup, StepKV


class PagedGroup(PoolGroup):
    """Keys and values of a sequence's own tokens, in blocks of `block_size` positions.

    number: the index of this group's table in `SeqState.tables`. Without a window, all blocks stay
    in use.
    """

    def __init__(self, spec: PagedKV, number: int, block_size: int, n_blocks: int) -> None:
        self.window = spec.window
        self.number = number
        self.block_size = block_size
        self.units = BlockAllocator(n_blocks)

    def table(self, seq: SeqState) -> Table:
        """This group's blocks of the sequence."""
        return seq.tables[self.number]

    def first(self, position: int) -> int:
        """The first block that a query at `position` (or later) reads."""
        if self.window is None:
            return 0
        return max(0, position - self.window + 1) // self.block_size

    def served(self, keys: Sequence[bytes]) -> list[bool]:
        out: list[bool] = []
        run = 0
        for j, key in enumerate(keys):
            run = run + 1 if self.units.find(key) is not None else 0
            if run == 0 and self.window is None:
                break
            out.append(run >= j + 1 - self.first((j + 1) * self.block_size))
        return out

    def adopt(self, seq: SeqState, keys: Sequence[bytes]) -> None:
        """Hold the known blocks; blocks outside the window are replaced with the sink."""
        first = self.first(len(keys) * self.block_size)
        table = array("i", [SINK]) * first
        for key in keys[first:]:
            block = self.units.find(key)
            assert block is not None
            self.units.share(block)
            table.append(block)
        seq.tables[self.number] = table

    def needs(self, seq: SeqState, step_tokens: int) -> int:
        table = self.table(seq)
        end = len(seq.tokens) + 1
        missing = -(-end // self.block_size) - len(table)
        if self.window is not None:
            held = sum(1 for block in table[self.first(seq.computed) :] if block != SINK)
            peak = -(-(self.window + step_tokens) // self.block_size) + 2
            missing = min(missing, peak - held)
        return max(0, missing)

    def extend(self, seq: SeqState, end: int) -> int:
        table = self.table(seq)
        while len(table) * self.block_size < end and self.units.available:
            table.append(self.units.take())
        return min(end, len(table) * self.block_size)

    def retract(self, seq: SeqState) -> None:
        table = self.table(seq)
        while (len(table) - 1) * self.block_size >= seq.planned:
            self.units.drop(table.pop())

    def publish(self, seq: SeqState, first: int, keys: Sequence[bytes]) -> None:
        table = self.table(seq)
        for j in range(first, len(keys)):
            self.units.publish(table[j], keys[j])

    def shrink(self, seq: SeqState) -> None:
        """Keeps what a query at the last block boundary reads: if the sequence is preempted, it
        resumes there."""
        if self.window is None:
            return
        table = self.table(seq)
        boundary = seq.computed // self.block_size * self.block_size
        for j in range(self.first(boundary) - 1, -1, -1):
            if table[j] == SINK:
                break
            self.units.drop(table[j])
            table[j] = SINK

    def drop(self, seq: SeqState) -> None:
        """Drop the tail first: the start of a prefix is more useful, and is overwritten last."""
        for block in reversed(self.table(seq)):
            if block != SINK:
                self.units.drop(block)
        seq.tables[self.number] = array("i")

    def held(self, seq: SeqState) -> Iterable[int]:
        return (block for block in self.table(seq) if block != SINK)


class SourceGroup(PagedGroup):
    """Keys and values of a sequence's source, all written before its first token is computed.

    They are never shared, so a model with such a group reuses no prefixes.
    """

    def served(self, keys: Sequence[bytes]) -> list[bool]:
        return []

    def needs(self, seq: SeqState, step_tokens: int) -> int:
        return -(-seq.source // self.block_size) - len(self.table(seq))

    def extend(self, seq: SeqState, end: int) -> int:
        """Take units for the whole source, or none."""
        missing = self.needs(seq, 0)
        if missing > self.units.available:
            return seq.planned
        self.table(seq).extend(self.units.take() for _ in range(missing))
        return end

    def retract(self, seq: SeqState) -> None:
        """Nothing to do: these blocks are for the source, not for the sequence's positions."""

    def publish(self, seq: SeqState, first: int, keys: Sequence[bytes]) -> None:
        """Nothing to publish: no other sequence has this source."""


class StepGroup(PagedGroup):
    """Keys and values of one step. No later step reads them, so no prefix can be reused."""

    def served(self, keys: Sequence[bytes]) -> list[bool]:
        return []

    def publish(self, seq: SeqState, first: int, keys: Sequence[bytes]) -> None:
        """Nothing to publish: the next layer has overwritten it."""


def paged_group(
    spec: PagedKV, number: int, block_size: int, n_blocks: int, *, source: bool
) -> PagedGroup:
    """The group that keeps the books for a declaration; source: see `specs.of_sources`."""
    kind = PagedGroup
    if source:
        kind = SourceGroup
    elif isinstance(spec, StepKV):
        kind = StepGroup
    return kind(spec, number, block_size, n_blocks)


def plan_blocks(
    groups: Sequence[StateGroup], *, tokens: int, block_size: int, max_seqs: int, step_tokens: int
) -> tuple[int, ...]:
    """The number of blocks of each group (sink included; 0 for fixed groups) for `tokens` tokens.

    A windowed group needs no more than every sequence's window and one step; a source is assumed to
    be as long as the sequence that reads it.
    """
    full = -(-tokens // block_size)
    counts = []
    for group in groups:
        if isinstance(group.spec, Fixed):
            counts.append(0)
        elif group.spec.window is None:
            counts.append(full + 1)
        else:
            span = -(-(group.spec.window + step_tokens) // block_size) + 2
            counts.append(min(full, max_seqs * span) + 1)
    return tuple(counts)
