"""`PoolGroup`: the interface of each kind of state, so that `StatePool` treats all kinds alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from rbee_worker.state.blocks import BlockAllocator
from rbee_worker.state.sequence import SeqState


class PoolGroup(ABC):
    """One kind of state, of all sequences. `units`: its blocks or slots, and who holds which.

    A key identifies a prefix: keys[j] stands for the first j + 1 full blocks of a sequence.
    """

    units: BlockAllocator

    @abstractmethod
    def served(self, keys: Sequence[bytes]) -> list[bool]:
        """Entry j: whether, for this group, a sequence with these keys can continue right after
        block j without computing anything before it. If the list ends early, no later block is
        served."""

    @abstractmethod
    def adopt(self, seq: SeqState, keys: Sequence[bytes]) -> None:
        """Start a sequence: hold the known state of a served prefix (no keys: of none)."""

    @abstractmethod
    def needs(self, seq: SeqState, step_tokens: int) -> int:
        """Units to be taken until all of the sequence's tokens and one more are computed."""

    @abstractmethod
    def extend(self, seq: SeqState, end: int) -> int:
        """Take units for positions `seq.planned` .. `end`, as far as there are any. Returns the end
        that can be planned, at least `seq.planned`."""

    @abstractmethod
    def retract(self, seq: SeqState) -> None:
        """Release what is held for positions from `seq.planned` on."""

    @abstractmethod
    def publish(self, seq: SeqState, first: int, keys: Sequence[bytes]) -> None:
        """Let other sequences find the state: `seq.computed` tokens are computed, and `keys` are
        the keys of their full blocks; those before `first` were published before."""

    @abstractmethod
    def shrink(self, seq: SeqState) -> None:
        """Drop the units that no step from `seq.computed` on reads."""

    @abstractmethod
    def drop(self, seq: SeqState) -> None:
        """Give back all units of the sequence."""

    @abstractmethod
    def held(self, seq: SeqState) -> Iterable[int]:
        """The units that the sequence holds, each as often as it holds it."""

    def check(self, live: Iterable[SeqState]) -> None:
        """Account for every unit. Raises AssertionError on a leak or a double use."""
        self.units.check(unit for seq in live for unit in self.held(seq))
