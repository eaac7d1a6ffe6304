"""`StatePool`: the scheduler's one view of a sequence's state, whatever its layers keep.

This is bookkeeping only. The memory belongs to a backend (`ops.executable.StateMemory`) and is
indexed by the numbers kept here. A model has one or more state groups (full attention, sliding
windows, recurrent state). A promise to a sequence counts only if every group can keep it.

    attach   find the longest prefix that is already computed, and hold it
    reserve  take space for the next n positions (may grant fewer)
    widen    take space for more positions of the step that was just reserved; narrow: give it back
    copies   the copies to make in the memory before that step       ... the step runs ...
    commit   these positions are computed, so others may now reuse them (except for rejected drafts:
             their positions will be planned again)
    release  give everything back; blocks of a running step return when it is committed
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rbee_worker.state.blocks import chain_key, root_key
from rbee_worker.state.features import FeatureBook, TileRun, seen
from rbee_worker.state.fixed import SNAPSHOT_TOKENS, Copy, FixedGroup, plan_slots
from rbee_worker.state.group import PoolGroup
from rbee_worker.state.paged import paged_group, plan_blocks
from rbee_worker.state.sequence import SeqState
from rbee_worker.state.specs import PagedKV, StateGroup, of_sources

__all__ = ["Copy", "PoolUsage", "SeqState", "StatePool"]


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """Blocks over all paged groups. share: the used fraction of the fullest group, 0..1."""

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
        snapshots: int = 0,
        spares: int = 0,
        snapshot_tokens: int = SNAPSHOT_TOKENS,
        features: FeatureBook | None = None,
        salt: bytes = b"",
    ) -> None:
        """tokens: what the pool holds; step_tokens: the longest step of a sequence; snapshots: of
        recurrent state, at multiples of `snapshot_tokens`. Without snapshots, a model with
        recurrent state reuses no prefixes. spares: sequences with recurrent state whose steps may
        be widened at once. features: of pictures, if the model reads them."""
        self.features = features
        self.groups = tuple(groups)
        self.block_size = block_size
        self.step_tokens = step_tokens
        self.longest = -(-tokens // block_size) * block_size  # the longest sequence, in tokens
        self.n_blocks = plan_blocks(
            groups,
            tokens=tokens,
            block_size=block_size,
            max_seqs=max_seqs,
            step_tokens=step_tokens,
        )
        snapshots = snapshots if prefix_cache else 0
        self.n_slots = plan_slots(groups, max_seqs, snapshots, spares)
        self.prefix_cache = prefix_cache and (snapshots > 0 or not self.n_slots)
        self._salt = salt
        each = zip(groups, self.n_blocks, of_sources(groups), strict=True)
        paged = [(group.spec, n, source) for group, n, source in each if n]
        self._paged = [
            paged_group(spec, number, block_size, n, source=source)
            for number, (spec, n, source) in enumerate(paged)
            if isinstance(spec, PagedKV)
        ]
        self._fixed: list[FixedGroup] = []
        if self.n_slots:
            fixed = FixedGroup(max_seqs, snapshots, block_size, snapshot_tokens, spares)
            self._fixed.append(fixed)
        # groups that shorten a step come first, so that the others take no more than it needs
        self._all: list[PoolGroup] = [*self._fixed, *self._paged]
        self._live: set[SeqState] = set()
        self._copies: list[Copy] = []

    def new(
        self,
        tokens: list[int],
        salt: bytes = b"",
        source: int = 0,
        runs: tuple[TileRun, ...] = (),
    ) -> SeqState:
        """The state of a sequence that holds nothing yet. Sequences share prefixes only if their
        salts are equal.

        source: rows of an encoder that the sequence will read. runs: where it has pictures.
        """
        return SeqState(tokens, salt, source, runs)

    def reusable(self, seq: SeqState, limit: int | None = None) -> int:
        """The length of the longest prefix that every group can continue from, at most `limit`.

        A multiple of the block size, and always before the last token, whose logits are needed.
        """
        if not self.prefix_cache:
            return 0
        end = len(seq.tokens) - 1 if limit is None else min(limit, len(seq.tokens) - 1)
        keys = self._keys(seq, end // self.block_size)
        best = len(keys)
        served = [group.served(keys) for group in self._all]
        while best and not all(len(s) >= best and s[best - 1] for s in served):
            best -= 1
        return best * self.block_size

    def attach(self, seq: SeqState, limit: int | None = None) -> int:
        """Start a sequence: hold its longest reusable prefix. Returns the tokens that it saves."""
        assert seq not in self._live
        assert seq.planned == 0
        reused = self.reusable(seq, limit)
        keys = seq.keys[: reused // self.block_size]
        seq.tables = [array("i") for _ in self._paged]
        for group in self._all:
            group.adopt(seq, keys)
        seq.computed = seq.planned = reused
        self._live.add(seq)
        return reused

    def admits(self, seq: SeqState, others: Iterable[SeqState]) -> bool:
        """Whether all of an attached sequence fits beside what `others` have yet to take.

        A sequence that is admitted with less would soon be preempted again.
        """
        everyone = [seq, *others]
        return all(
            sum(group.needs(s, self.step_tokens) for s in everyone) <= group.units.available
            for group in self._all
        )

    def most(self, seq: SeqState, n: int) -> int:
        """The most positions, up to n, that one step may have if there is enough space."""
        for group in self._fixed:
            if group.snapshots:
                n = min(n, group.limit(seq) - seq.planned)
        return n

    def reserve(self, seq: SeqState, n: int) -> int:
        """Take space for up to n more positions, plan them and return how many. 0: no space is
        left.

        Copies that must be made before that step are added to `copies`.
        """
        assert seq in self._live
        assert not seq.released
        assert n > 0
        end = seq.planned + n
        for group in self._all:
            end = group.extend(seq, end)
        cut = self._uncut(seq, end)
        granted = cut - seq.planned
        if granted > 0:
            for fixed in self._fixed:
                self._copies += fixed.begin(seq)
            seq.planned = cut
            seq.in_flight += 1
        if cut < end:
            for group in self._all:
                group.retract(seq)
        return max(granted, 0)

    def widen(self, seq: SeqState, n: int) -> int:
        """Take space for up to n more positions of the step that was reserved last. Returns how
        many were granted. Recurrent state cannot take a position back: it is copied to one of
        `spares` first (`copies`), and none is granted without."""
        assert seq in self._live
        assert seq.in_flight > 0
        end = seq.planned + n
        for fixed in self._fixed:
            end = fixed.most(seq, end)
            saved = fixed.save(seq) if end > seq.planned else None
            if saved is None:
                return 0
            self._copies += saved
        for group in self._all:
            end = group.extend(seq, end)
        granted = max(end - seq.planned, 0)
        seq.planned += granted
        if granted < n:  # one group may have taken more than another had
            for group in self._all:
                group.retract(seq)
        return granted

    def narrow(self, seq: SeqState, n: int) -> None:
        """Give back the last n positions of the step that was reserved last."""
        assert seq.in_flight > 0
        seq.planned -= n
        for group in self._all:
            group.retract(seq)

    def copies(self) -> list[Copy]:
        """(from slot, to slot) in the fixed groups, to be copied in this order before the step that
        was reserved since the last call."""
        copies, self._copies = self._copies, []
        return copies

    def commit(self, seq: SeqState, n: int, rejected: int = 0) -> None:
        """The step that was granted n positions is over. rejected: how many of the last ones were
        computed for tokens that the sequence did not get; recurrent state then goes back to where
        the step began. A released sequence keeps nothing of it."""
        assert seq in self._live
        assert seq.in_flight > 0
        seq.in_flight -= 1
        if seq.released:
            if seq.in_flight == 0:
                self._drop(seq)
            return
        for fixed in self._fixed:
            fixed.saved(seq, back=rejected > 0)
            rejected = n if rejected else 0
        start = seq.computed // self.block_size
        seq.computed += n - rejected
        if rejected:
            assert seq.in_flight == 0, "a step was planned on top of a draft"
            seq.planned -= rejected
            for group in self._all:
                group.retract(seq)
        assert seq.computed <= seq.planned
        full = seq.computed // self.block_size
        if self.prefix_cache and (full > start or seq.snapshots):
            keys = self._keys(seq, full)
            for group in self._all:
                group.publish(seq, start, keys)
        for group in self._all:
            group.shrink(seq)

    def release(self, seq: SeqState) -> None:
        """Give everything back; what a running step still uses returns when it is committed."""
        if seq not in self._live or seq.released:
            return
        seq.released = True
        if seq.in_flight == 0:
            self._drop(seq)

    def usage(self) -> PoolUsage:
        """The numbers of held, cached and all blocks."""
        used = [g.units.used for g in self._paged]
        total = [g.units.n_blocks - 1 for g in self._paged]
        cached = sum(g.units.cached for g in self._paged)
        share = max((u / t for u, t in zip(used, total, strict=True)), default=0.0)
        return PoolUsage(sum(used), cached, sum(total), share)

    def check(self) -> None:
        """Account for every block and slot of every group. Raises AssertionError on any mistake."""
        for group in self._all:
            group.check(self._live)
        for seq in self._live:
            assert 0 <= seq.computed <= seq.planned

    def _keys(self, seq: SeqState, n: int) -> list[bytes]:
        """The keys of the first n full blocks, computed once per sequence."""
        keys, size = seq.keys, self.block_size
        while len(keys) < n:
            j = len(keys)
            parent = keys[-1] if keys else root_key(self._salt + b"/" + seq.salt)
            start, end = j * size, (j + 1) * size
            keys.append(chain_key(parent, seq.tokens[start:end], seen(seq.runs, start, end)))
        return keys[:n]

    def _uncut(self, seq: SeqState, end: int) -> int:
        """The last position up to `end` where a step of the sequence may end: a picture whose rows
        see each other is in one step."""
        if self.features is not None and self.features.spec.whole:
            for run in seq.runs:
                if run.first < end < run.end:
                    return max(run.first, seq.planned)
        return end

    def _drop(self, seq: SeqState) -> None:
        for group in self._all:
            group.drop(seq)
        self._live.remove(seq)
