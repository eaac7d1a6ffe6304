"""The kernels. Kernel "a.b" is the result of `build("b")` in module `a` (see `kernel.py`).

Only compiling processes (`compile.py`) import these modules.
"""
