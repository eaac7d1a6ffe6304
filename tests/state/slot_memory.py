"""What the slots of a pool's fixed groups hold, as the tokens that went into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbee_worker.state.pool import SeqState, StatePool


@dataclass(frozen=True)
class Content:
    """The state of the first `length` of these tokens. The list may grow: of a step in flight, not
    all tokens are known yet."""

    tokens: list[int]
    salt: bytes
    length: int


class SlotMemory:
    """Stands for a backend's memory: does what a runner would do, in the same order."""

    def __init__(self, pool: StatePool) -> None:
        self._pool = pool
        self._slots: dict[int, Content] = {}

    def copy(self, copies: Sequence[tuple[int, int]]) -> None:
        """As `StateMemory.copy`."""
        for source, target in copies:
            self._slots[target] = self._slots[source]

    def compute(self, seq: SeqState, start: int, end: int) -> None:
        """A step of tokens start .. end of a sequence: its slot must hold those before them."""
        if not seq.slot:
            assert not self._pool.n_slots, "a step without a slot"
            return
        if start == 0:
            self._slots[seq.slot] = Content(seq.tokens, seq.salt, 0)
        found = self._slots[seq.slot]
        assert (found.length, found.salt) == (start, seq.salt)
        assert found.tokens is seq.tokens or found.tokens[:start] == seq.tokens[:start]
        self._slots[seq.slot] = Content(seq.tokens, seq.salt, end)

    def check(self) -> None:
        """Every snapshot that can be found is the state of exactly the prefix it is known for."""
        for fixed in self._pool._fixed:
            for key, slot in fixed.units._by_key.items():
                held = self._slots[slot]
                assert held.length % fixed.every == 0
                prefix = self._pool.new(held.tokens[: held.length], held.salt)
                assert self._pool._keys(prefix, held.length // self._pool.block_size)[-1] == key
