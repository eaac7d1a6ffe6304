"""Every test that asks for `library` runs once on each instruction set of this machine.

All of them are marked `kernels`: compiling for each instruction set takes minutes.
"""

from pathlib import Path

import pytest

from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.shared import isa


@pytest.fixture(scope="session", params=isa.names())
def library(request):
    return Library(isa.choose(request.param))


@pytest.fixture(scope="session")
def best():
    return Library(isa.choose())


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kernels)
