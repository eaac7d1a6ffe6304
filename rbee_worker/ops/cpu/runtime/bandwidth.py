"""Measures how fast this machine's memory can be read, which bounds decoding speed."""

from __future__ import annotations

import mmap
import os
import time

import numpy as np

from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.cpu.shared.instruction import Instruction, words

MOST = 1 << 30  # bytes: what was read last time, everything since has pushed out of the caches
REPEATS = 4
# How memory can be read (`kernels/read.py`); which way is fastest depends on the processor.
WAYS = tuple(f"read.{n}{ahead}" for n in (1, 2, 4, 8) for ahead in ("", "-1024"))


def read_gb_s(threads: int, *, most: int = MOST, cache_dir: str = "") -> float:
    """GB/s (10^9 bytes) that `threads` threads read from memory together: the best of several ways
    to read, and of a few runs of each.

    Memory is in huge pages where the system has them: small ones are never faster to read. most:
    the most bytes of memory to use.
    """
    nbytes = min(MOST, most)
    mapped = mmap.mmap(-1, nbytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(mapped, np.uint8)
    memory[:: mmap.PAGESIZE] = 1  # otherwise all pages would be the system's one page of zeros
    library = Library(isa.choose(os.environ.get("RBEE_CPU_ISA", "")), cache_dir=cache_dir)
    team = Team(library, threads)
    library.load(WAYS)
    out, header = np.zeros(64 * threads, np.uint8), np.zeros(1, np.int64)
    best = 0.0
    part = nbytes // len(WAYS)  # each way reads a part of its own
    for number, way in enumerate(WAYS * REPEATS):
        at = memory[number % len(WAYS) * part :]
        args = library[way].pack(p=at, nbytes=part, out=out)
        entries = words([Instruction(library[way].address, args.address)])
        start = time.perf_counter()
        team.run(entries, header)
        best = max(best, part / (time.perf_counter() - start) / 1e9)
    team.close()
    return best
