"""The length that a sequence's rotary scaling goes by, and what it makes of cached keys.

Dynamic NTK goes by the prompt's length for as long as the sequence lives. LongRoPE goes by the
length of all that is known: the step that takes a sequence past `switch` tokens uses the long
frequencies for every key, so keys computed with the short ones become useless. The length is a
function of the tokens alone, so an answer does not depend on what was computed when.
"""

from __future__ import annotations

from collections.abc import Iterable

from rbee_worker.ops import RopeSpec

NO_END = 1 << 62  # more tokens than any sequence has


class RopeLengths:
    """`switches`: lengths past which a sequence's keys are computed again, ascending."""

    def __init__(self, ropes: Iterable[RopeSpec] = ()) -> None:
        self._varying = [r for r in ropes if r.dynamic is not None or r.long_inv_freq is not None]
        self.switches = sorted({r.switch for r in self._varying if r.long_inv_freq is not None})

    def of(self, prompt: int, tokens: int) -> int:
        """The rope length of a sequence of `tokens` tokens, the first `prompt` of which are its
        prompt. It grows only where the sequence has gone past a switch."""
        if not self.switches:
            return prompt
        return max([prompt, *(switch + 1 for switch in self.switches if switch < tokens)])

    def end(self, tokens: int) -> int:
        """The longest that a sequence of `tokens` tokens can get with the rope length it has."""
        return next((switch for switch in self.switches if switch >= tokens), NO_END)

    def salt(self, length: int) -> bytes:
        """What keys depend on besides tokens and positions, for sequences of that rope length."""
        parts: list[int] = []
        for rope in self._varying:
            if rope.dynamic is not None:
                parts.append(max(length, rope.dynamic[2]))
            if rope.long_inv_freq is not None:
                parts.append(int(length > rope.switch))
        return repr(parts).encode() if parts else b""
