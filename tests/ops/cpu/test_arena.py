"""The arena: pieces apart from each other, memory that is taken when it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rbee_worker.ops.cpu.runtime.arena import LINE, PAGE, Arena


def test_pieces_are_apart_aligned_and_zero() -> None:
    arena = Arena(3 * PAGE)
    pieces = [arena.take(n) for n in (1, 64, 65, PAGE)]
    starts = [p.ctypes.data for p in pieces]
    for piece, start, after in zip(pieces, starts, [*starts[1:], starts[-1] + PAGE], strict=True):
        assert start % LINE == 0
        assert start + piece.nbytes <= after
        assert not piece.any()
    with pytest.raises(AssertionError, match="planned"):
        arena.take(4 * PAGE)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no way to see it here")
def test_memory_is_taken_when_it_is_written() -> None:
    arena = Arena()  # far more address space than there is memory
    before = anonymous()
    arena.take(1 << 33)
    arena.take(10)[:] = 1
    assert anonymous() - before <= 2 * PAGE
    arena.take(8 * PAGE)[:] = 1
    assert anonymous() - before >= 8 * PAGE


def anonymous() -> int:
    """Bytes of this process in no file."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024
