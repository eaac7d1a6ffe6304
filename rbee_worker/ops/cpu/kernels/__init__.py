"""The kernels. Kernel "a.b" is what `build("b")` of module `a` returns (see `kernel.py`).

These modules import numba, so only the compiling process (`compile.py`) imports them.
"""
