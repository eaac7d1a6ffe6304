"""The kernels. Kernel "a.b" is what `build("b")` of module `a` returns (see `kernel.py`).

Only compiling processes (`compile.py`) import these modules.
"""
