"""The CPU backend: numba kernels compiled ahead into object files, and a recorded program.

Compiling, in a child process: isa (instruction sets) -> emit, vec (LLVM IR) -> simd (numba
intrinsics) -> vmath, shares, threads, blocks, tile, micro, softmax -> kernels/* -> kernel, compile.
Running, without numba: cache (object files) -> native (kernels by address) -> team (threads,
replay) -> program (recorder, arena) -> matrix (weights), angles, header (what a step's kernels
read) -> recording (what is shared) -> attending, columns, experts (parts of `CpuOps`; stack: their
weights) -> backend (`CpuOps`), fallback -> model (`CpuModel`).
Both: step (the header's offsets), paged (layout of a cache block), held (weight formats), chosen
(lists of experts' rows).
"""
