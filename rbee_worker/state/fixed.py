"""Fixed groups: a slot for each sequence, and snapshots from which other sequences can continue.

Recurrent state is one value that every token changes, so a prefix can be reused only if its state
was copied right after its last token. Copies are made at aligned positions (`SNAPSHOT_TOKENS`): a
step of a sequence ends at the next such position (`extend`), and before the sequence's following
step its slot is copied to another slot, the snapshot. All fixed groups of a model share slot
numbers, and a copy includes all of them. A snapshot is found by the key of its prefix; the least
recently used one is overwritten first.

A step with drafted tokens may compute too much, and recurrent state cannot take a token back. So
the slot is copied to a *spare* slot before such a step, and copied back before the sequence's next
step if a draft was wrong; that step computes again what was right.

Copies are made in the order in which `begin` returned them: before the step that `begin` was called
for, and after the steps that were reserved earlier. So a snapshot may be overwritten by a later
copy as soon as the copy that reads it has been returned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rbee_worker.state.blocks import SINK, BlockAllocator
from rbee_worker.state.group import PoolGroup
from rbee_worker.state.sequence import SeqState, Snapshot
from rbee_worker.state.specs import Fixed, StateGroup

# A multiple of every block size, and of the positions at which operations split a sequence
# (attention's spans, chunked scans), so that what follows a snapshot is computed identically.
SNAPSHOT_TOKENS = 256

Copy = tuple[int, int]  # (from slot, to slot)


def plan_slots(groups: Sequence[StateGroup], max_seqs: int, snapshots: int, spares: int = 0) -> int:
    """The number of slots of a pool: the sink, one per sequence, per snapshot and per spare; 0: no
    slots."""
    fixed = any(isinstance(g.spec, Fixed) for g in groups)
    return 1 + max_seqs + snapshots + spares if fixed else 0


class FixedGroup(PoolGroup):
    """The slots of at most `max_seqs` sequences and at least `snapshots` snapshots, and `spares`.

    A slot that no sequence uses may hold a snapshot. every: the distance between two snapshots.
    """

    def __init__(
        self, max_seqs: int, snapshots: int, block_size: int, every: int, spares: int = 0
    ) -> None:
        assert every % block_size == 0, f"snapshots at {every}, blocks of {block_size}"
        self.max_seqs, self.snapshots = max_seqs, snapshots
        self.block_size, self.every = block_size, every
        self.units = BlockAllocator(1 + max_seqs + snapshots)
        first = 1 + max_seqs + snapshots
        self._every_spare = frozenset(range(first, first + spares))
        self._spares = sorted(self._every_spare)  # those that no sequence has
        self._sequences = 0  # sequences that have a slot

    def served(self, keys: Sequence[bytes]) -> list[bool]:
        return [self.units.find(key) is not None for key in keys]

    def adopt(self, seq: SeqState, keys: Sequence[bytes]) -> None:
        """Take a slot if one is free, and keep the snapshot until it is copied into that slot."""
        if keys:
            snapshot = self.units.find(keys[-1])
            assert snapshot is not None
            self.units.share(snapshot)
            seq.resume = snapshot
        if self.units.available:
            seq.slot = self.units.take()
            self._sequences += 1

    def needs(self, seq: SeqState, step_tokens: int) -> int:
        return 0 if seq.slot else 1

    def extend(self, seq: SeqState, end: int) -> int:
        """Extend up to the next snapshot, or nowhere if the sequence has no slot."""
        if not seq.slot:
            return seq.planned
        return min(end, self.limit(seq)) if self.snapshots else end

    def limit(self, seq: SeqState) -> int:
        """The last position at which the sequence's next step may end."""
        return (seq.planned // self.every + 1) * self.every

    def begin(self, seq: SeqState) -> list[Copy]:
        """A step from `seq.planned` on is granted: returns the copies to make before it."""
        if seq.goes_back:
            copy = seq.spare, seq.slot
            self._give_spare(seq)
            return [copy]
        if seq.resume:
            copy = seq.resume, seq.slot
            self.units.drop(seq.resume)
            seq.resume = SINK
            return [copy]
        if self.snapshots and seq.planned and seq.planned % self.every == 0:
            return self._snapshot(seq)
        return []

    def save(self, seq: SeqState) -> list[Copy] | None:
        """Keep the state as it is before the step that was just granted: returns the copies to make
        before it, once a step. None: there is no spare slot."""
        if seq.spare:
            return []
        if not self._spares:
            return None
        seq.spare = self._spares.pop()
        return [(seq.slot, seq.spare)]

    def saved(self, seq: SeqState, *, back: bool) -> None:
        """That step is over. back: the state before it is needed again."""
        if back:
            assert seq.spare
            seq.goes_back = True
        else:
            self._give_spare(seq)

    def most(self, seq: SeqState, end: int) -> int:
        """The last position up to `end` that a step may be widened to: it ends before a snapshot is
        due."""
        if not self.snapshots:
            return end
        return min(end, -(-seq.planned // self.every) * self.every)

    def _give_spare(self, seq: SeqState) -> None:
        if seq.spare:
            self._spares.append(seq.spare)
        seq.spare, seq.goes_back = SINK, False

    def _snapshot(self, seq: SeqState) -> list[Copy]:
        """Copy the current state, unless it is known already or sequences need the slots."""
        at = seq.planned // self.block_size - 1
        known = self.units.find(seq.keys[at]) if at < len(seq.keys) else None
        if known is not None:
            self.units.share(known)  # counts as a use, so that others are overwritten first
            self.units.drop(known)
            return []
        if self.units.available <= max(0, self.max_seqs - self._sequences):
            return []
        slot = self.units.take()
        seq.snapshots.append(Snapshot(seq.planned, slot))
        return [(seq.slot, slot)]

    def retract(self, seq: SeqState) -> None:
        """Nothing to do: see `saved`."""

    def publish(self, seq: SeqState, first: int, keys: Sequence[bytes]) -> None:
        """A snapshot becomes valid when the step that it was taken before is over."""
        while seq.snapshots and seq.snapshots[0].position < seq.computed:
            position, slot = seq.snapshots.pop(0)
            self.units.publish(slot, keys[position // self.block_size - 1])
            self.units.drop(slot)

    def shrink(self, seq: SeqState) -> None:
        """Nothing to do: the state has a constant size."""

    def drop(self, seq: SeqState) -> None:
        for unit in self.held(seq):
            self.units.drop(unit)
        self._sequences -= seq.slot != SINK
        self._give_spare(seq)
        seq.slot = seq.resume = SINK
        seq.snapshots.clear()

    def held(self, seq: SeqState) -> Iterable[int]:
        own = [slot for slot in (seq.slot, seq.resume) if slot != SINK]
        return own + [snapshot.slot for snapshot in seq.snapshots]

    def check(self, live: Iterable[SeqState]) -> None:
        live = list(live)
        super().check(live)
        assert self._sequences == sum(1 for seq in live if seq.slot), "slots are miscounted"
        spares = [*self._spares, *(seq.spare for seq in live if seq.spare)]
        assert sorted(spares) == sorted(self._every_spare), "spare slots are miscounted"
