"""Kernels' Python to machine code. Imported only by the compiling process.

There are two ways to write a kernel. Both append the operations of one table, `simd.py`.

**Translated Python**: functions under `@device` and `kernel` (`kernel.py`); `translate.py` reads
their source. Branches and loops run when the kernel runs. Use it for all control flow: walking over
rows, sequences, blocks or threads, scalar arithmetic, calling other device functions.

**A builder**: plain Python around `Pen` and `Vec` (`vec.py`) that runs once, while the kernel is
compiled, and appends instructions; its loops are unrolled, its `if`s decided, and `emit.loop` is
its only loop at run time. Use it for long straight runs of vector operations: unpacking a weight
format, a tile of accumulators in registers. It reaches LLVM without being translated, which keeps
a first start short.

`simd.op` makes an operation of builder code, which translated Python then calls by name.
"""
