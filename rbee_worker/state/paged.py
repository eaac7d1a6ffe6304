"""One paged group: which blocks a sequence holds in it, and which of them a query still reads.

A group without a window is one whose window never ends.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from rbee_worker.state.blocks import SINK, BlockAllocator
from rbee_worker.state.specs import Fixed, PagedKV, StateGroup

Table: TypeAlias = "array[int]"


@dataclass(eq=False, slots=True)
class SeqState:
    """What one sequence holds. `computed` <= `planned` <= len(tokens) + tokens not yet known.

    tokens: prompt, then output; shared with the engine, which appends. tables: for each paged
    group the block of positions j*block_size .. at index j, the sink where it is not held (out of
    the window); 32-bit integers, copied into a batch as they are. slot: this sequence's place in
    the fixed groups, 0 = none.
    """

    tokens: list[int]
    salt: bytes = b""
    computed: int = 0
    planned: int = 0
    tables: tuple[Table, ...] = ()
    slot: int = 0
    keys: list[bytes] = field(default_factory=list)
    in_flight: int = 0  # steps that were reserved and not yet committed
    released: bool = False

    def renewed(self) -> SeqState:
        """The same tokens with nothing held and nothing computed."""
        return SeqState(self.tokens, self.salt, keys=self.keys)


class PagedGroup:
    """The blocks of one group, and what they mean to a sequence's table."""

    def __init__(self, spec: PagedKV, block_size: int, n_blocks: int) -> None:
        self.window = spec.window
        self.block_size = block_size
        self.blocks = BlockAllocator(n_blocks)

    def first(self, position: int) -> int:
        """First block that a query at `position` (or later) reads."""
        if self.window is None:
            return 0
        return max(0, position - self.window + 1) // self.block_size

    def served(self, keys: Sequence[bytes]) -> list[bool]:
        """Entry j: this group can go on right after block j, for as many blocks as it is asked."""
        out: list[bool] = []
        run = 0
        for j, key in enumerate(keys):
            run = run + 1 if self.blocks.find(key) is not None else 0
            if run == 0 and self.window is None:
                break
            out.append(run >= j + 1 - self.first((j + 1) * self.block_size))
        return out

    def adopt(self, keys: Sequence[bytes]) -> Table:
        """Hold the known blocks of a served prefix; the sink stands for those out of the window."""
        first = self.first(len(keys) * self.block_size)
        table = array("i", [SINK]) * first
        for key in keys[first:]:
            block = self.blocks.find(key)
            assert block is not None
            self.blocks.share(block)
            table.append(block)
        return table

    def extend(self, table: Table, end: int) -> int:
        """Blocks up to position `end`, as far as there are any; the end that is covered."""
        while len(table) * self.block_size < end and self.blocks.available:
            table.append(self.blocks.take())
        return min(end, len(table) * self.block_size)

    def needs(self, seq: SeqState, table: Table, step_tokens: int) -> int:
        """Blocks still to be taken until all of the sequence's tokens and one more are computed."""
        end = len(seq.tokens) + 1
        missing = -(-end // self.block_size) - len(table)
        if self.window is not None:
            held = sum(1 for block in table[self.first(seq.computed) :] if block != SINK)
            peak = -(-(self.window + step_tokens) // self.block_size) + 2
            missing = min(missing, peak - held)
        return max(0, missing)

    def shrink(self, table: Table, computed: int) -> None:
        """Drop what no query at `computed` or later reads. Whole blocks behind the last block
        boundary stay readable, so that a fork can start there."""
        if self.window is None:
            return
        last = self.first(computed // self.block_size * self.block_size)
        for j in range(last - 1, -1, -1):
            if table[j] == SINK:
                break
            self.blocks.drop(table[j])
            table[j] = SINK

    def drop(self, table: Table) -> None:
        """Give all back, the tail first: the head of a prefix is worth more and goes last."""
        for block in reversed(table):
            if block != SINK:
                self.blocks.drop(block)


def plan_blocks(
    groups: Sequence[StateGroup], *, tokens: int, block_size: int, max_seqs: int, step_tokens: int
) -> tuple[int, ...]:
    """Blocks of each group (sink included; 0 for fixed groups) in a pool for `tokens` tokens.

    A windowed group needs no more than its windows and one step for every sequence.
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
