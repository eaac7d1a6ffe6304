"""Kernels of the cuda backend run in Triton's interpreter, as Python on the CPU.

RBEE_TEST_GPU=1 runs the same tests on a GPU. The variable must be set before triton is imported.
"""

import os

if os.environ.get("RBEE_TEST_GPU") != "1":
    os.environ["TRITON_INTERPRET"] = "1"
