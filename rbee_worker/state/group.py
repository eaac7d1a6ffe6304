"""`PoolGroup`: what `StatePool` asks of each kind of state, so that it treats all of them alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from rbee_worker.state.blocks import BlockAllocator
from rbee_worker.state.sequence import SeqState


class PoolGroup(ABC):
    """One kind of state of all sequences. `units`: its blocks or slots, and who holds which.

    A key stands for a prefix: keys[j] for the first j + 1 full blocks of a sequence.
    """

    units: BlockAllocator

    @abstractmethod
    def served(self, keys: Sequence[bytes]) -> list[bool]:
        """Entry j: a sequence with these keys can go on right after block j without computing
        anything before it, as far as this group is concerned. May end early: no more is served."""

    @abstractmethod
    def adopt(self, seq: SeqState, keys: Sequence[bytes]) -> None:
        """A sequence starts: hold what is known of a served prefix (no keys: of nothing)."""

    @abstractmethod
    def needs(self, seq: SeqState, step_tokens: int) -> int:
        """Units still to be taken until all of the sequence's tokens and one more are computed."""

    @abstractmethod
    def extend(self, seq: SeqState, end: int) -> int:
        """Make room for positions `seq.planned` .. `end`, as far as there is any. Returns the end
        that can be planned, at least `seq.planned`."""

    @abstractmethod
    def retract(self, seq: SeqState) -> None:
        """Give back what was held for positions from `seq.planned` on."""

    @abstractmethod
    def publish(self, seq: SeqState, first: int, keys: Sequence[bytes]) -> None:
        """`seq.computed` tokens are computed, `keys` are of its full blocks, those before `first`
        were published: others may find what is held of them."""

    @abstractmethod
    def shrink(self, seq: SeqState) -> None:
        """Drop what no step from `seq.computed` on reads."""

    @abstractmethod
    def drop(self, seq: SeqState) -> None:
        """Give back all that the sequence holds."""

    @abstractmethod
    def held(self, seq: SeqState) -> Iterable[int]:
        """The units that it holds, each as often as it holds it."""

    def check(self, live: Iterable[SeqState]) -> None:
        """Account for every unit. Raises AssertionError on a leak or a double use."""
        self.units.check(unit for seq in live for unit in self.held(seq))
