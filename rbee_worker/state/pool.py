"""`StatePool`: the one view the scheduler has of a sequence's state, whatever the layers keep.

Bookkeeping only, torch-free; the tensors live in `state/tensors.py` and are indexed by what stands
here. A model has one or more state groups (full attention, sliding windows, recurrent state); each
answers for itself and a promise counts only if every group can keep it.

    attach   find the longest prefix that is already computed, and hold it
    reserve  room for the next n positions (may grant fewer)      ... a step runs ...
    commit   these positions are computed: now others may reuse them
    release  give everything back; blocks of a step still running return when it is committed
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rbee_worker.state.blocks import SINK, chain_key, root_key
from rbee_worker.state.paged import PagedGroup, SeqState, plan_blocks
from rbee_worker.state.specs import Fixed, PagedKV, StateGroup

__all__ = ["PoolUsage", "SeqState", "StatePool"]


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """Blocks over all groups. share: the fullest group's used part, 0..1."""

    used: int
    cached: int
    total: int
    share: float


class StatePool:
    """All state of all sequences. Not thread-safe: the engine's loop is its only user."""

    def __init__(
        self,
        groups: Sequence[StateGroup],
        *,
        tokens: int,
        block_size: int,
        max_seqs: int,
        step_tokens: int,
        prefix_cache: bool = True,
        salt: bytes = b"",
    ) -> None:
        """`tokens`: what the pool holds in all; `step_tokens`: the longest step of a sequence."""
        self.groups = tuple(groups)
        self.block_size = block_size
        self.step_tokens = step_tokens
        self.longest = -(-tokens // block_size) * block_size  # tokens of the longest sequence
        self.n_blocks = plan_blocks(
            groups,
            tokens=tokens,
            block_size=block_size,
            max_seqs=max_seqs,
            step_tokens=step_tokens,
        )
        self._salt = salt
        self._paged = tuple(
            PagedGroup(g.spec, block_size, n)
            for g, n in zip(groups, self.n_blocks, strict=True)
            if isinstance(g.spec, PagedKV)
        )
        fixed = any(isinstance(g.spec, Fixed) for g in groups)
        self.n_slots = max_seqs + 1 if fixed else 0  # slot 0 is a sink
        self._slots = list(range(self.n_slots - 1, 0, -1))
        # A recurrent state can be taken up only where it was kept, and none is kept yet.
        self.prefix_cache = prefix_cache and not fixed
        self._live: set[SeqState] = set()

    def new(self, tokens: list[int], salt: bytes = b"") -> SeqState:
        """State of a sequence that holds nothing yet. Only equal salts share a prefix."""
        return SeqState(tokens, salt)

    def reusable(self, seq: SeqState, limit: int | None = None) -> int:
        """Length of the longest prefix that every group has computed, at most `limit` tokens.

        A multiple of the block size, and always short of the last token: its logits are wanted.
        """
        if not self.prefix_cache:
            return 0
        end = len(seq.tokens) - 1 if limit is None else min(limit, len(seq.tokens) - 1)
        keys = self._keys(seq, end // self.block_size)
        best = len(keys)
        served = [group.served(keys) for group in self._paged]
        while best and not all(len(s) >= best and s[best - 1] for s in served):
            best -= 1
        return best * self.block_size

    def attach(self, seq: SeqState, limit: int | None = None) -> int:
        """Start a sequence: hold its longest reusable prefix. Returns the tokens it spares."""
        assert seq not in self._live
        assert seq.planned == 0
        reused = self.reusable(seq, limit)
        keys = seq.keys[: reused // self.block_size]
        seq.tables = tuple(group.adopt(keys) for group in self._paged)
        if self.n_slots and self._slots:
            seq.slot = self._slots.pop()
        seq.computed = seq.planned = reused
        self._live.add(seq)
        return reused

    def admits(self, seq: SeqState, others: Iterable[SeqState]) -> bool:
        """Is there room for all of an attached sequence besides what `others` still have to take?

        Admitting on less would only preempt it again soon.
        """
        others = list(others)
        for i, group in enumerate(self._paged):
            need = group.needs(seq, seq.tables[i], self.step_tokens)
            need += sum(group.needs(o, o.tables[i], self.step_tokens) for o in others)
            if need > group.blocks.available:
                return False
        return not self.n_slots or seq.slot > 0

    def reserve(self, seq: SeqState, n: int) -> int:
        """Room for up to n more positions; plans them and returns how many. 0: nothing is left."""
        assert seq in self._live
        assert not seq.released
        assert n > 0
        if self.n_slots and not seq.slot:
            return 0
        end = seq.planned + n
        for group, table in zip(self._paged, seq.tables, strict=True):
            end = group.extend(table, end)
        granted = end - seq.planned
        if granted > 0:
            seq.planned = end
            seq.in_flight += 1
        return max(granted, 0)

    def commit(self, seq: SeqState, n: int) -> None:
        """The step that was granted n positions is over. Of a released sequence nothing is kept."""
        assert seq in self._live
        assert seq.in_flight > 0
        seq.in_flight -= 1
        if seq.released:
            if seq.in_flight == 0:
                self._drop(seq)
            return
        start = seq.computed // self.block_size
        seq.computed += n
        assert seq.computed <= seq.planned
        full = seq.computed // self.block_size
        if self.prefix_cache and full > start:
            keys = self._keys(seq, full)
            for group, table in zip(self._paged, seq.tables, strict=True):
                for j in range(start, full):
                    group.blocks.publish(table[j], keys[j])
        for group, table in zip(self._paged, seq.tables, strict=True):
            group.shrink(table, seq.computed)

    def fork(self, seq: SeqState, tokens: list[int]) -> SeqState:
        """A second sequence that shares the first's whole computed blocks and recomputes the rest.

        `tokens` starts like the first's. Nothing is copied: a shared block is never written again.
        """
        assert seq in self._live
        assert not seq.released
        child = SeqState(tokens, seq.salt)
        full = 0 if self.n_slots else min(seq.computed, len(tokens) - 1) // self.block_size
        if full != seq.computed // self.block_size:
            full = 0 if any(g.window is not None for g in self._paged) else full
        child.tables = tuple(table[:full] for table in seq.tables)
        for group, table in zip(self._paged, child.tables, strict=True):
            for j in range(full):
                if j < group.first(full * self.block_size):
                    table[j] = SINK
                if table[j] != SINK:
                    group.blocks.share(table[j])
        if self.n_slots and self._slots:
            child.slot = self._slots.pop()
        child.computed = child.planned = full * self.block_size
        self._live.add(child)
        return child

    def release(self, seq: SeqState) -> None:
        """Give everything back; what a running step still uses returns when it is committed."""
        if seq not in self._live or seq.released:
            return
        seq.released = True
        if seq.in_flight == 0:
            self._drop(seq)

    def forget(self) -> None:
        """Forget every cached prefix that no sequence holds."""
        for group in self._paged:
            group.blocks.forget()

    def usage(self) -> PoolUsage:
        """Blocks held, cached and in all."""
        used = [g.blocks.used for g in self._paged]
        total = [g.blocks.n_blocks - 1 for g in self._paged]
        cached = sum(g.blocks.cached for g in self._paged)
        share = max((u / t for u, t in zip(used, total, strict=True)), default=0.0)
        return PoolUsage(sum(used), cached, sum(total), share)

    def check(self) -> None:
        """Account for every block and slot of every group. Raises AssertionError on any mistake."""
        for i, group in enumerate(self._paged):
            group.blocks.check(self._held(i))
        slots = [seq.slot for seq in self._live if seq.slot]
        assert sorted(slots + self._slots) == list(range(1, self.n_slots)), "a slot is lost"
        for seq in self._live:
            assert 0 <= seq.computed <= seq.planned

    def _held(self, group: int) -> Iterator[int]:
        for seq in self._live:
            yield from (block for block in seq.tables[group] if block != SINK)

    def _keys(self, seq: SeqState, n: int) -> list[bytes]:
        """Keys of the first n full blocks, computed once for each sequence."""
        keys, size = seq.keys, self.block_size
        while len(keys) < n:
            j = len(keys)
            parent = keys[-1] if keys else root_key(self._salt + b"/" + seq.salt)
            keys.append(chain_key(parent, seq.tokens[j * size : (j + 1) * size]))
        return keys[:n]

    def _drop(self, seq: SeqState) -> None:
        for group, table in zip(self._paged, seq.tables, strict=True):
            group.drop(table)
        seq.tables = ()
        if seq.slot:
            self._slots.append(seq.slot)
            seq.slot = 0
        self._live.remove(seq)
