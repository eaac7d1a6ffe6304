"""Stop strings on streamed text: holds back exactly what could still become one, no more.

An Aho-Corasick automaton reads the text character by character, in O(1) amortised time each, so the
result does not depend on how the text is cut into pieces. The rule: the answer ends at the first
character that completes a stop string; if several end there, the longest counts. No part of it, and
no proper prefix of a stop string that could still be completed, is ever given out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class StopAutomaton:
    """The tables for a set of stop strings; immutable, so that requests may share it.

    A node is a prefix of a stop string. `hold[node]` is the length of its longest suffix (itself
    included) that is a proper prefix, `match[node]` the longest stop string that the node ends
    with.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.children: list[dict[str, int]] = [{}]
        self.fail = [0]
        self.hold = [0]
        self.match: list[str | None] = [None]
        depth = [0]
        for stop in stops:
            node = 0
            for char in stop:
                if char not in self.children[node]:
                    self.children[node][char] = len(self.children)
                    self.children.append({})
                    self.fail.append(0)
                    self.hold.append(0)
                    self.match.append(None)
                    depth.append(depth[node] + 1)
                node = self.children[node][char]
            if node:
                self.match[node] = stop
        queue = deque(self.children[0].values())
        while queue:  # breadth first, so that a node's suffixes, which are shorter, are done first
            node = queue.popleft()
            back = self.fail[node]
            self.hold[node] = depth[node] if self.children[node] else self.hold[back]
            self.match[node] = self.match[node] or self.match[back]
            for char, child in self.children[node].items():
                self.fail[child] = self.step(back, char) if node else 0
                queue.append(child)

    def step(self, node: int, char: str) -> int:
        """The longest suffix of the text so far that is a prefix of a stop string."""
        while char not in self.children[node]:
            if node == 0:
                return 0
            node = self.fail[node]
        return self.children[node][char]


class StopMatcher:
    """The text of one answer. `found`: the stop string that ended it, None if none has.

    While `armed` is False (min_tokens), a complete stop string is ordinary text. Hidden text, which
    is the text of special tokens that are not shown, also completes stop strings but is never given
    out.
    """

    def __init__(self, stops: Sequence[str], *, armed: bool = True) -> None:
        self._automaton = StopAutomaton(stops)
        self._node = 0
        self._held = ""
        self._veil = ""  # for each character in `_held`: whether it is hidden
        self.armed = armed
        self.found: str | None = None

    def push(self, text: str, *, hidden: bool = False) -> str:
        """Take the next piece; returns what may be shown now. After a match that is nothing."""
        if self.found is not None or not text:
            return ""
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
                return _visible(whole[:cut], veil[:cut])
        self._node = node
        cut = len(whole) - automaton.hold[node]
        self._held, self._veil = whole[cut:], veil[cut:]
        return _visible(whole[:cut], veil[:cut])

    def flush(self) -> str:
        """The text ends here: return what was held back, which is no stop string after all."""
        held, veil = self._held, self._veil
        self._held = self._veil = ""
        self._node = 0
        return _visible(held, veil)


_SHOWN, _HIDDEN = " ", "x"


def _visible(text: str, veil: str) -> str:
    """The characters of `text` that are not hidden according to `veil`."""
    if _HIDDEN not in veil:
        return text
    return "".join(c for c, v in zip(text, veil, strict=True) if v == _SHOWN)
