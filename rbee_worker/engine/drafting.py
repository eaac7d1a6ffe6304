"""`Drafting`: who makes drafts; what computes them, if anything does, until it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Literal

from rbee_worker.engine.messages import DraftsEnded
from rbee_worker.engine.proposer import Proposer
from rbee_worker.engine.scheduler import Chunk, Plan
from rbee_worker.engine.sequence import Sequence
from rbee_worker.errors import device_lost, is_out_of_memory, one_line
from rbee_worker.ops.batch import Array

log = logging.getLogger(__name__)


Maker = Literal["proposer", "lookup", "nobody"]


class Drafting:
    """proposer: None if nothing computes drafts, or nothing any more.

    What fails here concerns drafts only: answers go on without them.
    """

    def __init__(self, proposer: Proposer | None, *, lookup: bool) -> None:
        """lookup: sequences find their drafts in their own tokens (lookup.py)."""
        self.proposer = proposer
        self._failed: DraftsEnded | None = None  # to be told
        self._lookup = lookup

    @property
    def maker(self) -> Maker:
        """Who makes the drafts of a new sequence."""
        if self.proposer is not None:
            return "proposer"
        return "lookup" if self._lookup else "nobody"

    def propose(self, seqs: Seq[Sequence], room: int) -> None:
        """See `Proposer.propose`."""
        self._try(lambda proposer: proposer.propose(seqs, room))

    def follow(self, chunks: Seq[Chunk], hidden: Array) -> None:
        """See `Proposer.follow`."""
        self._try(lambda proposer: proposer.follow(chunks, hidden))

    def news(self) -> list[DraftsEnded]:
        """That drafting has failed, once."""
        told, self._failed = self._failed, None
        return [] if told is None else [told]

    def leave(self, seq: Sequence) -> None:
        """See `Proposer.leave`."""
        if self.proposer is not None:
            self.proposer.leave(seq)

    def stepped(self, plan: Plan, seconds: float) -> None:
        """See `Proposer.stepped`."""
        if self.proposer is not None:
            self.proposer.stepped(plan, seconds)

    def _try(self, do: Callable[[Proposer], None]) -> None:
        if self.proposer is None:
            return
        try:
            do(self.proposer)
        except Exception as error:
            lost = device_lost(error)
            if lost is not None:
                raise lost from error
            log.exception("drafting failed: nothing is drafted from now on")
            self.proposer = None
            first = one_line((str(error).splitlines() or ["no message"])[0], 200)
            short = "there was not enough memory" if is_out_of_memory(error) else first
            self._failed = DraftsEnded(why=f"drafting failed: {type(error).__name__}: {short}")
