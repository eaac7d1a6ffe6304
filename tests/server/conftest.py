"""A server with the fake engine, one for each test module that only asks it things."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.served import Served


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served() as server:
        yield server
