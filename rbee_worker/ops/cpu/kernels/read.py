"""Reads memory and does nothing else: this machine's bandwidth.

`read.<streams>` reads in so many streams a thread, `read.<streams>-<bytes>` also asks for each line
so many bytes ahead. Which of them is fastest is a property of the processor.
"""

from __future__ import annotations

from typing import Any

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, kernel
from rbee_worker.ops.cpu.compiler.simd import I32x16, Int, Ptr, op

LINE = 64  # bytes
AT_ONCE = 8  # lines a step, of all streams together


def _lines(streams: int, ahead: int) -> Any:
    """An operation `(p, part, steps) -> vector`: the lines of `streams` streams, which begin `part`
    bytes after each other, xored; `steps` times AT_ONCE lines in all."""
    each = AT_ONCE // streams

    def write(b: e.Builder, p: e.Value, part: e.Value, steps: e.Value) -> e.Value:
        def body(i: e.Value, sums: list[e.Value]) -> list[e.Value]:
            out = list(sums)
            at = b.add(p, b.mul(i, e.number(LINE * each)))
            for stream in range(streams):
                for line in range(each):
                    if ahead:
                        e.prefetch(b, e.at(b, at, LINE * line + ahead))
                    n = stream * each + line
                    out[n] = b.xor(out[n], e.load(b, e.at(b, at, LINE * line), e.I32))
                at = b.add(at, part)
            return out

        sums = e.loop(b, e.number(0), steps, [e.const(0)] * AT_ONCE, body)
        while len(sums) > 1:
            sums = [b.xor(x, y) for x, y in zip(sums[0::2], sums[1::2], strict=True)]
        return sums[0]

    return op(I32x16, Ptr, Int, Int)(write)


def build(variant: str) -> Kernel:
    """Threads share `nbytes` bytes at p, a multiple of threads * 512; each writes 64 to out."""
    streams, _, ahead = variant.partition("-")
    lines = _lines(int(streams), int(ahead or 0))

    def run(step: Ptr, tid: Int, nt: Int, p: Ptr, nbytes: Int, out: Ptr) -> None:
        steps = s.idiv(nbytes, nt * LINE * AT_ONCE)
        at = p + tid * steps * LINE * AT_ONCE
        part = s.idiv(steps * LINE * AT_ONCE, int(streams))
        s.store_i32(out + LINE * tid, lines(at, part, steps))

    return kernel(f"read.{variant}")(run)
