"""Tests of the engine run with each of the fake backends."""

from collections.abc import Iterator

import pytest

from tests.engine import fakes


@pytest.fixture(scope="module", params=fakes.BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Engines around a fake model have this backend."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes, "BACKEND", request.param)
        yield request.param
