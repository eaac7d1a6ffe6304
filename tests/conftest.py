"""Triton's interpreter runs the kernels of the cuda backend in tests, and must be chosen before
triton is first imported, by whatever test. RBEE_TEST_GPU=1: a GPU runs them."""

import os

if os.environ.get("RBEE_TEST_GPU") != "1":
    os.environ["TRITON_INTERPRET"] = "1"
