"""One browser and one worker for all tests of the page in a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.page import browser as chromium
from tests.page.answers import script
from tests.page.browser import DESKTOP, Page
from tests.server.fake_engine import Fake
from tests.server.served import Served

NOTE = "weights of two formats were found"


@pytest.fixture(scope="session")
def tab() -> Iterator[Page]:
    if chromium.BROWSER is None or chromium.DRIVER is None:
        pytest.skip(chromium.MISSING)
    with chromium.browser() as page:
        yield page


@pytest.fixture(scope="session")
def worker() -> Iterator[Served]:
    """Answers by the word behind the question's # (`answers.py`)."""
    fake = Fake(token_s=0.004, chunk=8, context=1 << 18, notes=(NOTE,), script=script)
    with Served(fake) as server:
        yield server


@pytest.fixture
def page(tab: Page, worker: Served) -> Iterator[Page]:
    """The page of `worker` on a desktop, with nothing kept. Nothing may go wrong in the console."""
    tab.size(DESKTOP)
    tab.open(worker)
    tab.console()
    yield tab
    wrong = tab.console("status of 400")
    tab.driver.get("about:blank")
    assert wrong == []
