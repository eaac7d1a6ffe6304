"""The CPU backend: kernels in Python compiled ahead into object files, and a recorded program.

Compiling, in child processes: isa (instruction sets) -> emit, vec (LLVM IR) -> simd (operations) ->
vmath, shares, threads, blocks, tile, micro, softmax -> kernels/*; values, expressions, statements,
translate (Python to LLVM IR) -> kernel, compile.
Running, without any of these: cache (object files) -> native (kernels by address) -> team (threads,
replay) -> program (recorder, arena) -> matrix (weights), angles, header (what a step's kernels
read) -> recording (what is shared) -> attending, columns, experts (parts of `CpuOps`; stack: their
weights) -> backend (`CpuOps`), fallback -> model (`CpuModel`).
Both: step (the header's offsets), paged (layout of a cache block), held (weight formats), chosen
(lists of experts' rows).
"""
