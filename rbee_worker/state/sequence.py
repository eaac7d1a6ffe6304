"""`SeqState`: what one sequence holds of a `StatePool`, and how far it is computed."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

Table: TypeAlias = "array[int]"


class Snapshot(NamedTuple):
    """Recurrent state of a sequence after its first `position` tokens, copied to `slot`."""

    position: int
    slot: int


@dataclass(eq=False, slots=True)
class SeqState:
    """What one sequence holds. `computed` <= `planned` <= len(tokens) + tokens not yet known.

    tokens: prompt, then output; shared with the engine, which appends. salt: what else its state
    depends on; only sequences with equal salts share a prefix. source: rows of the encoder that its
    cross-attention reads. tables: for each paged group the block of positions j*block_size .. at
    index j, the sink where it is not held (out of the window); 32-bit integers, copied into a batch
    as they are. slot: this sequence's place in the fixed groups, 0 = none. resume: the snapshot to
    be copied to `slot` before its first step, 0 = none; snapshots: those that are being taken.
    """

    tokens: list[int]
    salt: bytes = b""
    source: int = 0
    computed: int = 0
    planned: int = 0
    tables: list[Table] = field(default_factory=list)
    slot: int = 0
    resume: int = 0
    snapshots: list[Snapshot] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)  # of its full blocks, as far as asked for
    in_flight: int = 0  # steps that were reserved and not yet committed
    released: bool = False

    def renewed(self) -> SeqState:
        """The same tokens with nothing held and nothing computed."""
        return SeqState(self.tokens, self.salt, self.source, keys=self.keys)
