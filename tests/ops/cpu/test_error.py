"""How far products are from float64, for every format and form; docs/formats.md has the figures."""

import pytest

from benchmarks.cpu_error import FLOATS, columns, errors
from rbee_worker.ops.cpu.shared.forms import WITHIN, forms
from rbee_worker.ops.cpu.shared.held import held_as
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
    taken = forms(held_as(name))
    assert set(worst) == set(taken)
    if name not in FLOATS:  # each form is what it says, not a better one
        one, two, exact = (worst[form] for form in taken)
        assert one > 100 * two > 1000 * exact
