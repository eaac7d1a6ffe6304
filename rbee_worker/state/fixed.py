"""The fixed groups: a slot for each sequence, and snapshots from which others can go on.

Recurrent state is one value that every token changes, so a prefix can be taken up only where its
state was copied while it stood there. That is done at aligned positions (`SNAPSHOT_TOKENS`): a step
of a sequence ends at the next one (`extend`), and before its following step its slot is copied to a
slot of its own, the snapshot. All fixed groups of a model share slot numbers, and a copy is of all
of them. A snapshot is known by the key of its prefix; the least recently used gives way.

Copies are made in the order in which `begin` returned them, before the step that it was asked for,
and after the steps that were reserved earlier. So a snapshot may be overwritten by a later copy as
soon as the copy that reads it is returned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rbee_worker.state.blocks import SINK, BlockAllocator
from rbee_worker.state.group import PoolGroup
from rbee_worker.state.sequence import SeqState, Snapshot
from rbee_worker.state.specs import Fixed, StateGroup

# A multiple of every block size, and of the positions at which operations cut a sequence in parts
# (attention's spans, chunked scans), so that what follows a snapshot is computed the same.
SNAPSHOT_TOKENS = 256

Copy = tuple[int, int]  # state of the first slot goes to the second


def plan_slots(groups: Sequence[StateGroup], max_seqs: int, snapshots: int) -> int:
    """Slots of a pool, the sink included: one a sequence and one a snapshot. 0: none needed."""
    return 1 + max_seqs + snapshots if any(isinstance(g.spec, Fixed) for g in groups) else 0


class FixedGroup(PoolGroup):
    """Slots of at most `max_seqs` sequences and at least `snapshots` snapshots.

    A slot that no sequence uses may hold a snapshot. every: positions between two of them.
    """

    def __init__(self, max_seqs: int, snapshots: int, block_size: int, every: int) -> None:
        assert every % block_size == 0, f"snapshots at {every}, blocks of {block_size}"
        self.max_seqs, self.snapshots = max_seqs, snapshots
        self.block_size, self.every = block_size, every
        self.units = BlockAllocator(1 + max_seqs + snapshots)
        self._sequences = 0  # that have a slot

    def served(self, keys: Sequence[bytes]) -> list[bool]:
        return [self.units.find(key) is not None for key in keys]

    def adopt(self, seq: SeqState, keys: Sequence[bytes]) -> None:
        """Take a slot if there is one, and keep the snapshot until it is copied there."""
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
        """Up to the next snapshot, and nowhere without a slot."""
        if not seq.slot:
            return seq.planned
        return min(end, self.limit(seq)) if self.snapshots else end

    def limit(self, seq: SeqState) -> int:
        """Where the sequence's next step ends at the latest."""
        return (seq.planned // self.every + 1) * self.every

    def begin(self, seq: SeqState) -> list[Copy]:
        """A step from `seq.planned` on is granted: what must be copied before it."""
        if seq.resume:
            copy = seq.resume, seq.slot
            self.units.drop(seq.resume)
            seq.resume = SINK
            return [copy]
        if self.snapshots and seq.planned and seq.planned % self.every == 0:
            return self._snapshot(seq)
        return []

    def _snapshot(self, seq: SeqState) -> list[Copy]:
        """Copy the state as it is now, unless that is known or slots are needed for sequences."""
        at = seq.planned // self.block_size - 1
        known = self.units.find(seq.keys[at]) if at < len(seq.keys) else None
        if known is not None:
            self.units.share(known)  # it has been used: others are forgotten first
            self.units.drop(known)
            return []
        if self.units.available <= max(0, self.max_seqs - self._sequences):
            return []
        slot = self.units.take()
        seq.snapshots.append(Snapshot(seq.planned, slot))
        return [(seq.slot, slot)]

    def retract(self, seq: SeqState) -> None:
        """Nothing: `StatePool.widen` takes no positions that could be given back."""

    def publish(self, seq: SeqState, first: int, keys: Sequence[bytes]) -> None:
        """A snapshot is good once the step before which it was taken is over."""
        while seq.snapshots and seq.snapshots[0].position < seq.computed:
            position, slot = seq.snapshots.pop(0)
            self.units.publish(slot, keys[position // self.block_size - 1])
            self.units.drop(slot)

    def shrink(self, seq: SeqState) -> None:
        """Nothing: state is of one size."""

    def drop(self, seq: SeqState) -> None:
        for unit in self.held(seq):
            self.units.drop(unit)
        self._sequences -= seq.slot != SINK
        seq.slot = seq.resume = SINK
        seq.snapshots.clear()

    def held(self, seq: SeqState) -> Iterable[int]:
        own = [slot for slot in (seq.slot, seq.resume) if slot != SINK]
        return own + [snapshot.slot for snapshot in seq.snapshots]

    def check(self, live: Iterable[SeqState]) -> None:
        live = list(live)
        super().check(live)
        assert self._sequences == sum(1 for seq in live if seq.slot), "slots are miscounted"
