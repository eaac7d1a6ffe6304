"""Asking the L2 cache for the next large matrix, where a launch leaves the memory idle.

A small launch between two large products reads little and waits long: for the kernel before it, and
for its own few numbers. Its programs ask for lines of the next product's matrix before they wait;
nothing waits for the answer, and the product then finds these lines in the cache.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from rbee_worker.ops.cuda.kernels.launch import INTERPRETED

LINE = 128  # bytes that one thread asks for at a time
# Bytes of a matrix that are asked for, by all launches before it together; 0: none. An H200 has an
# L2 cache of 50 MB, in halves that may both hold what multiprocessors of both sides read.
MOST = 24 << 20
_TURNS = 64  # the most lines that one thread asks for


@triton.jit
def ask(at, wanted):
    """Ask for the lines at these addresses (pointers or int64), where wanted."""
    tl.inline_asm_elementwise(
        "{ .reg .pred p; setp.ne.s32 p, $2, 0; @p prefetch.global.L2 [$1]; mov.u32 $0, 0; }",
        "=r,l,r",
        [at.to(tl.int64), wanted.to(tl.int32)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def ask_for(start, lines, program, THREADS: tl.constexpr, TURNS: tl.constexpr):
    """Ask for this program's share of so many lines: TURNS times one for each of its threads."""
    thread = tl.arange(0, THREADS)
    for turn in range(TURNS):
        line = (program * TURNS + turn) * THREADS + thread
        ask(start.to(tl.int64) + line.to(tl.int64) * 128, line < lines)


def part_of(matrix: Tensor, part: int, parts: int) -> Tensor | None:
    """The numbers of a contiguous matrix that one of several launches before its product asks for;
    None: there are none."""
    most = min(matrix.nbytes, MOST) // (parts * LINE) * LINE // matrix.itemsize
    return matrix.view(-1)[part * most : (part + 1) * most] if most else None


def share(wanted: Tensor | None, programs: int, warps: int) -> tuple[Tensor | None, int, Any]:
    """Of a launch whose programs ask for `wanted` together: `start`, `lines` and the constants of
    `ask_for`. The interpreter asks for nothing."""
    threads = 32 * warps
    if wanted is None or INTERPRETED:
        return None, 0, {"THREADS": threads, "TURNS": 0}
    lines = wanted.nbytes // LINE
    turns = min(_TURNS, triton.cdiv(lines, programs * threads))
    return wanted, lines, {"THREADS": threads, "TURNS": turns}
