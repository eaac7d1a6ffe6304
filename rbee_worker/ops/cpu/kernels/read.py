"""Reads memory in four streams a thread and does nothing else: this machine's bandwidth."""

from __future__ import annotations

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr

STREAMS = 4


def build(variant: str) -> Kernel:
    """`read.streams`: threads share `nbytes` bytes at p; each writes 64 bytes to out."""

    def run(step: Ptr, tid: Int, nt: Int, p: Ptr, nbytes: Int, out: Ptr) -> None:
        lines = s.idiv(nbytes, nt * STREAMS * 64)
        part = 64 * lines
        at = p + tid * STREAMS * part
        a, b, c, d = s.zeros_i32(), s.zeros_i32(), s.zeros_i32(), s.zeros_i32()
        for _ in range(lines):
            a = s.ixor(a, s.load_i32(at))
            b = s.ixor(b, s.load_i32(at + part))
            c = s.ixor(c, s.load_i32(at + 2 * part))
            d = s.ixor(d, s.load_i32(at + 3 * part))
            at += 64
        s.store_i32(out + 64 * tid, s.ixor(s.ixor(a, b), s.ixor(c, d)))

    return kernel(f"read.{variant}")(run)
