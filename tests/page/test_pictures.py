"""The page takes a picture where the model does: chosen, shown small, sent, kept, exported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.model_info import Purpose
from tests.page import browser as chromium
from tests.page.answers import script
from tests.page.browser import DESKTOP, Page, wait_for
from tests.page.test_kept import DOWNLOADED, list_of
from tests.pictures.making import data_url, drawn, saved
from tests.server.fake_engine import Fake
from tests.server.served import Served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seeing() -> Iterator[Served]:
    """A worker whose model takes pictures."""
    fake = Fake(token_s=0.004, script=script, purpose=Purpose(pictures=True))
    with Served(fake, max_picture_kb=256) as server:
        yield server


@pytest.fixture
def shown(tab: Page, seeing: Served) -> Iterator[Page]:
    if chromium.BROWSER is None:
        pytest.skip(chromium.MISSING)
    tab.size(DESKTOP)
    tab.open(seeing)
    tab.console()
    yield tab
    wrong = tab.console()
    tab.driver.get("about:blank")
    assert wrong == []


def drawn_size(page: Page, css: str) -> list[int]:
    size = "const c = document.querySelector(arguments[0]); return c ? [c.width, c.height] : []"
    found: list[int] = page.run(size, css)
    return found


def sent(server: Served) -> Any:
    request = server.engine.seen[-1][0]
    return request.messages[-1]["content"], [file.data for file in request.pictures]


def test_a_picture_is_sent_kept_and_exported(shown: Page, seeing: Served, tmp_path: Path) -> None:
    file = tmp_path / "bee.png"
    file.write_bytes(saved(drawn(320, 160)))
    shown.attach(str(file))
    wait_for(lambda: drawn_size(shown, "#files .preview") == [160, 80])
    shown.say("What is it? #short")
    parts = [{"type": "image"}, {"type": "text", "text": "What is it? #short"}]
    assert sent(seeing) == (parts, [file.read_bytes()])
    wait_for(lambda: drawn_size(shown, ".user .preview") == [160, 80])
    shown.again()  # it is kept
    wait_for(lambda: drawn_size(shown, ".user .preview") == [160, 80])
    shown.keys("And now? #short\n")
    wait_for(lambda: shown.count(".answer") == 2)
    shown.settled()
    assert sent(seeing)[1] == [file.read_bytes()]  # the whole conversation is sent
    exported = shown.run(DOWNLOADED, "#export", wait=True)
    (first,) = json.loads(exported)["conversations"][0]["turns"][0]["files"]
    assert first == {"name": "bee.png", "text": "", "picture": data_url(file.read_bytes())}
    again = tmp_path / "all.json"
    again.write_text(exported)
    shown.run("document.querySelector('#clear').click()")
    shown.click("#clear-sure button", "Delete all")
    wait_for(lambda: list_of(shown) == [])
    shown.one("#import-file").send_keys(str(again))
    wait_for(lambda: drawn_size(shown, ".user .preview") == [160, 80])


def test_what_the_command_line_saved_is_read(shown: Page, tmp_path: Path) -> None:
    url = data_url(saved(drawn(10, 20)))
    part = {"type": "image_url", "image_url": {"url": url}}
    content = [part, {"type": "text", "text": "What is it?"}]
    file = tmp_path / "chat.json"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": content}]}))
    shown.one("#import-file").send_keys(str(file))
    wait_for(lambda: drawn_size(shown, ".user .preview") == [10, 20])


def test_other_pictures_are_refused_in_words(shown: Page, tmp_path: Path) -> None:
    other, large = tmp_path / "a.gif", tmp_path / "a.png"
    other.write_bytes(b"GIF89a" + bytes(20))
    large.write_bytes(saved(drawn(400, 400)))
    shown.attach(str(other))
    wait_for(lambda: shown.text("#file-error") == "a.gif: is no PNG, JPEG or WebP.")
    shown.attach(str(large))
    wait_for(lambda: shown.text("#file-error") == "a.png: is larger than 0.25 MiB.")
    assert shown.texts("#files li") == []
