"""`SeqState`: what one sequence holds in a `StatePool`, and how far it is computed."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from rbee_worker.state.features import TileRun

Table: TypeAlias = "array[int]"


class Snapshot(NamedTuple):
    """The recurrent state of a sequence after its first `position` tokens, in slot `slot`."""

    position: int
    slot: int


@dataclass(eq=False, slots=True)
class SeqState:
    """What one sequence holds. `computed` <= `planned` <= len(tokens) + tokens not yet known.

    tokens: prompt, then output; shared with the engine, which appends. salt: what else the state
    depends on; only sequences with equal salts share a prefix. runs: where features of pictures
    stand. source: rows of the encoder that its cross-attention reads; encoded: a step has been
    planned that computes them. tables: one per paged group; index j has the block of the positions
    from j*block_size on, or the sink if that block is not held (outside the window); 32-bit
    integers, copied into a batch unchanged. slot: the sequence's slot in the fixed groups, 0 =
    none. resume: the snapshot to copy to `slot` before the first step, 0 = none; snapshots: those
    being taken. spare: the slot that has the state from before a step with drafts, 0 = none;
    goes_back: it is to be copied back before the next step.
    """

    tokens: list[int]
    salt: bytes = b""
    source: int = 0
    runs: tuple[TileRun, ...] = ()
    encoded: bool = False
    computed: int = 0
    planned: int = 0
    tables: list[Table] = field(default_factory=list)
    slot: int = 0
    resume: int = 0
    snapshots: list[Snapshot] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)  # of its first full blocks, made on demand
    in_flight: int = 0  # steps that are reserved but not yet committed
    released: bool = False
    spare: int = 0
    goes_back: bool = False

    def renewed(self) -> SeqState:
        """A sequence with the same tokens that holds nothing and has nothing computed."""
        return SeqState(self.tokens, self.salt, self.source, self.runs, keys=self.keys)
