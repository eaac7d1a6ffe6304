"""Every test that asks for `library` runs once on each instruction set of this machine."""

import pytest

from rbee_worker.ops.cpu import isa
from rbee_worker.ops.cpu.native import Library


@pytest.fixture(scope="session", params=isa.names())
def library(request):
    return Library(isa.choose(request.param))


@pytest.fixture(scope="session")
def best():
    return Library(isa.choose())
