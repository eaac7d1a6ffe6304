"""Finds strings in a text that comes character by character: an Aho-Corasick automaton.

Each character costs O(1) amortised time, so what is found does not depend on how the text is cut
into pieces. Stop strings and the marks of tool calls are found with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class Automaton:
    """The tables for a set of strings; immutable, so that requests may share it.

    A node is a prefix of a string. `hold[node]` is the length of its longest suffix (itself
    included) that is a proper prefix, `match[node]` the longest string that the node ends
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
        """The longest suffix of the text so far that is a prefix of a string."""
        while char not in self.children[node]:
            if node == 0:
                return 0
            node = self.fail[node]
        return self.children[node][char]
