"""How far products are from float64, for every format and form; docs/formats.md has the figures."""

import pytest

from benchmarks.cpu_error import FLOATS, columns, errors
from rbee_worker.ops.cpu.forms import WITHIN
from tests.blocks import SCALES
from tests.ops.cpu.eager import Eager


@pytest.fixture(scope="module")
def eager():
    both = Eager(), Eager(exact=True)
    yield both
    for one in both:
        one.close()


@pytest.mark.parametrize("name", [*FLOATS, *SCALES])
def test_products(eager, name):
    worst = errors(name, *eager, columns(name)[:2])
    assert all(worst[form] < WITHIN[form] for form in worst)
    assert set(worst) == ({"exact"} if name in FLOATS else set(WITHIN))
    if name not in FLOATS:  # each form is what it says, not a better one
        assert worst["i8"] > 100 * worst["i16"] > 1000 * worst["exact"]
