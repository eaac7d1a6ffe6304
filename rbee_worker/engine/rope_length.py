"""The length that a sequence's rotary scaling uses, and its effect on cached keys.

Dynamic NTK uses the prompt's length as long as the sequence lives. LongRoPE uses the length of all
known tokens: the step that takes a sequence past `switch` tokens uses the long frequencies for
every key, so keys computed with the short ones become useless. The length depends on the tokens
alone, so an answer does not depend on when something was computed.
"""

from __future__ import annotations

from collections.abc import Iterable

from rbee_worker.ops import RopeSpec

NO_END = 1 << 62  # more tokens than any sequence has


class RopeLengths:
    """`switches`: lengths beyond which a sequence's keys are computed again, ascending."""

    def __init__(self, ropes: Iterable[RopeSpec] = ()) -> None:
        self._varying = [r for r in ropes if r.dynamic is not None or r.long_inv_freq is not None]
        self.switches = sorted({r.switch for r in self._varying if r.long_inv_freq is not None})

    def of(self, prompt: int, tokens: int) -> int:
        """The rope length of a sequence of `tokens` tokens, of which the first `prompt` are its
        prompt. It grows only when the sequence passes a switch."""
        if not self.switches:
            return prompt
        return max([prompt, *(switch + 1 for switch in self.switches if switch < tokens)])

    def end(self, tokens: int) -> int:
        """The most tokens that a sequence of `tokens` tokens can have with its current rope
        length."""
        return next((switch for switch in self.switches if switch >= tokens), NO_END)

    def salt(self, length: int) -> bytes:
        """What keys depend on besides tokens and positions, for sequences with that rope length."""
        parts: list[int] = []
        for rope in self._varying:
            if rope.dynamic is not None:
                parts.append(max(length, rope.dynamic[2]))
            if rope.long_inv_freq is not None:
                parts.append(int(length > rope.switch))
        return repr(parts).encode() if parts else b""
