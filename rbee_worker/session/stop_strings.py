"""Stop strings on streamed text: holds back exactly what could still become one, no more.

An Aho-Corasick automaton reads the text character by character, in O(1) amortised time each, so the
result does not depend on how the text is cut into pieces. The rule: the answer ends at the first
character that completes a stop string; if several end there, the longest counts. No part of it, and
no proper prefix of a stop string that could still be completed, is ever given out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rbee_worker.answer.automaton import Automaton

Run = tuple[str, bool]  # text, and whether it is hidden


class StopMatcher:
    """The text of one answer. `found`: the stop string that ended it, None if none has.

    While `armed` is False (min_tokens), a complete stop string is ordinary text. Hidden text, which
    is the text of special tokens that are not shown, also completes stop strings but is never given
    out.
    """

    def __init__(self, stops: Sequence[str], *, armed: bool = True) -> None:
        self._automaton = Automaton(stops)
        self._node = 0
        self._held = ""
        self._veil = ""  # for each character in `_held`: whether it is hidden
        self.armed = armed
        self.found: str | None = None

    def push(self, text: str, *, hidden: bool = False) -> str:
        """Take the next piece; returns what may be shown now. After a match that is nothing."""
        return _visible(self.runs(text, hidden=hidden))

    def flush(self) -> str:
        """The text ends here: return what was held back, which is no stop string after all."""
        return _visible(self.rest())

    def runs(self, text: str, *, hidden: bool = False) -> list[Run]:
        """`push`, with the hidden text where it stands."""
        if self.found is not None or not text:
            return []
        automaton, node = self._automaton, self._node
        before = len(self._held)
        whole = self._held + text
        veil = self._veil + (_HIDDEN if hidden else _SHOWN) * len(text)
        for i, char in enumerate(text):
            node = automaton.step(node, char)
            stop = automaton.match[node]
            if stop is not None and self.armed:
                self.found = stop
                self._held = self._veil = ""
                cut = before + i + 1 - len(stop)
                return _runs(whole[:cut], veil[:cut])
        self._node = node
        cut = len(whole) - automaton.hold[node]
        self._held, self._veil = whole[cut:], veil[cut:]
        return _runs(whole[:cut], veil[:cut])

    def rest(self) -> list[Run]:
        """`flush`, with the hidden text where it stands."""
        held, veil = self._held, self._veil
        self._held = self._veil = ""
        self._node = 0
        return _runs(held, veil)


_SHOWN, _HIDDEN = " ", "x"


def _runs(text: str, veil: str) -> list[Run]:
    """`text` in parts that are hidden or not, according to `veil`."""
    if not text:
        return []
    if _HIDDEN not in veil:
        return [(text, False)]
    cuts = [i for i in range(1, len(text)) if veil[i] != veil[i - 1]]
    return [(text[i:j], veil[i] == _HIDDEN) for i, j in pairwise([0, *cuts, len(text)])]


def _visible(runs: list[Run]) -> str:
    return "".join(text for text, hidden in runs if not hidden)
