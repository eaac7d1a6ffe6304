"""The CPU backend: kernels in Python, compiled once into object files, and a recorded program.

`shared/` is what compiling and running agree on: layouts, offsets, weight formats, kernel cache.
`compiler/` turns the Python of `kernels/` into machine code; only compiling processes import them.
`runtime/` has threads, memory and recorded programs; it never imports the compiler.
`backend/` is `CpuOps`, which records a model's operations, and `CpuModel`, which replays them.
"""
