"""What holds for every test of a process.

Triton's interpreter runs the kernels of the cuda backend, and must be chosen before triton is first
imported, by whatever test. RBEE_TEST_GPU=1: a GPU runs them.

An engine of the reference backend takes as many of torch's threads as there are cores, and torch
keeps them. Beside another process of the suite, the tests after it would wait for those threads
longer than they compute.
"""

from __future__ import annotations

import os
import sys

import pytest

if os.environ.get("RBEE_TEST_GPU") != "1":
    os.environ["TRITON_INTERPRET"] = "1"

THREADS = int(os.environ.get("OMP_NUM_THREADS", "0"))  # 0: as torch likes


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    torch = sys.modules.get("torch")
    if THREADS and torch is not None and (nextitem is None or nextitem.path != item.path):
        torch.set_num_threads(THREADS)
