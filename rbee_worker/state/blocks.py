"""`BlockAllocator`: how many sequences hold each block, and which known prefix it contains.

It deals in block numbers: it does not know what a block contains, how large it is or which sequence
asks. The slots of recurrent state are handed out by an allocator too. Every operation is O(1). A
block is in exactly one of four states:

    free      no sequence holds it and it contains nothing worth keeping
    cached    no sequence holds it, but it contains a known prefix that can still be found; the
              least recently used one is overwritten first, when no block is free
    held      one or more sequences hold it
    the sink  block 0: padding is written there, and it is never handed out
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b

SINK = 0


def root_key(salt: bytes) -> bytes:
    """The key before a sequence's first block. Equal salts may share blocks, others never do."""
    return blake2b(salt, digest_size=16).digest()


def chain_key(parent: bytes, tokens: Sequence[int], seen: bytes = b"") -> bytes:
    """The key of a full block: its own tokens and, through `parent`, all tokens before it. seen:
    what else its positions depend on (`features.seen`)."""
    return blake2b(parent + array("q", tokens).tobytes() + seen, digest_size=16).digest()


class BlockAllocator:
    """Blocks 1 .. n_blocks-1, counted by reference and found again by key."""

    def __init__(self, n_blocks: int) -> None:
        assert n_blocks >= 2, "one sink and at least one block"
        self.n_blocks = n_blocks
        self._refs = [0] * n_blocks
        self._key: list[bytes | None] = [None] * n_blocks
        self._by_key: dict[bytes, int] = {}
        self._free = list(range(n_blocks - 1, 0, -1))  # a stack: low numbers go first
        self._cached: dict[int, None] = {}  # insertion order = least recently used first

    @property
    def available(self) -> int:
        """Blocks that `take` can still give."""
        return len(self._free) + len(self._cached)

    @property
    def cached(self) -> int:
        """Blocks that no sequence holds and that contain a known prefix."""
        return len(self._cached)

    @property
    def used(self) -> int:
        """Blocks held by at least one sequence."""
        return self.n_blocks - 1 - self.available

    def take(self) -> int:
        """A block to write to, held once. If none is free, the least recently used prefix is
        forgotten."""
        if self._free:
            block = self._free.pop()
        else:
            assert self._cached, "take() without asking what is available"
            block = next(iter(self._cached))
            del self._cached[block]
            key = self._key[block]
            assert key is not None
            del self._by_key[key]
            self._key[block] = None
        self._refs[block] = 1
        return block

    def share(self, block: int) -> None:
        """Count one more holder of a block that is held or cached."""
        if self._refs[block] == 0:
            del self._cached[block]
        self._refs[block] += 1

    def drop(self, block: int) -> None:
        """Count one holder less. After the last one, the block is cached if its prefix is known,
        and free if not."""
        assert self._refs[block] > 0, f"block {block} is dropped but no sequence holds it"
        self._refs[block] -= 1
        if self._refs[block] == 0:
            if self._key[block] is None:
                self._free.append(block)
            else:
                self._cached[block] = None

    def publish(self, block: int, key: bytes) -> None:
        """Make a held block known by the key of what it contains. If another block is known by
        that key already, nothing changes."""
        assert self._refs[block] > 0
        if self._key[block] is None and key not in self._by_key:
            self._key[block] = key
            self._by_key[key] = block

    def find(self, key: bytes) -> int | None:
        """The held or cached block known by this key."""
        return self._by_key.get(key)

    def check(self, holders: Iterable[int]) -> None:
        """Account for every block. holders: a block's number once for each sequence holding it.

        Raises AssertionError on a leak, a double use or a stale prefix.
        """
        held = Counter(holders)
        free, cached = set(self._free), set(self._cached)
        assert SINK not in free | cached | held.keys(), "the sink was given out"
        assert len(free) == len(self._free), "a block is free twice"
        for block in range(1, self.n_blocks):
            assert self._refs[block] == held[block], (
                f"block {block}: {self._refs[block]} references, {held[block]} holders"
            )
            places = (block in free) + (block in cached) + (held[block] > 0)
            assert places == 1, f"block {block} is in {places} places"
            key = self._key[block]
            assert (key is not None) or block not in cached, f"block {block} is cached unknown"
            assert key is None or block not in free, f"block {block} is free but known"
            assert key is None or self._by_key.get(key) == block, f"block {block}: stale key"
        assert len(self._by_key) == sum(k is not None for k in self._key), "stale prefix"
