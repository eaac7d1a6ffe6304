"""What can be done with a conversation: stop, answer again, edit, branch, continue, wait, retry."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from rbee_worker.errors import WorkerError
from tests.page.answers import CUT, REST, script
from tests.page.browser import Page
from tests.server.fake_engine import Fake
from tests.server.served import Served, wait_for

SAID = ".answer .text"


def test_regenerate_keeps_both_answers_and_edit_branches(page: Page, worker: Served) -> None:
    page.say("One #short")
    page.say("Two")
    first = len(worker.engine.seen)
    page.click("[aria-label='Regenerate answer']")
    page.settled()
    assert page.texts(".answer:last-child .siblings span") == ["2/2"]
    assert len(worker.engine.seen) == first + 1
    page.click("[aria-label='previous answer']")
    assert page.texts(".answer:last-child .siblings span") == ["1/2"]
    page.click("[aria-label='Edit question']")
    page.write("textarea.editing", "Another two")
    page.click(".edit button", "Send")
    wait_for(lambda: page.text(".user .text") == "Another two")
    page.settled()
    assert page.texts(".user .siblings span") == ["2/2"]
    assert page.text(SAID) == "You said: Another two"
    request = worker.engine.seen[-1][0]
    asked = [(m["role"], m["content"]) for m in request.messages]
    assert asked == [("user", "One #short"), ("assistant", "Four wings."), ("user", "Another two")]
    page.click("[aria-label='previous question']")
    assert page.text(".user .text") == "Two"
    assert page.texts(".answer .siblings span") == ["1/2"]  # the branch has its own place


def test_an_answer_that_was_cut_goes_on(page: Page, worker: Served) -> None:
    page.write("#parameters [name=max_tokens]", str(len(CUT)))
    page.say("Tell me #cut")
    assert page.text(SAID) == CUT
    page.write("#parameters [name=max_tokens]", "")
    page.click("[aria-label='Continue answer']")
    wait_for(lambda: page.text(SAID) == CUT + REST)
    page.settled()
    request = worker.engine.seen[-1][0]
    assert request.continue_final_message
    assert request.messages[-1] == {"role": "assistant", "content": CUT}
    assert page.count("[aria-label='Continue answer']") == 0  # it ended by itself
    page.say("And? #short")
    assert worker.engine.seen[-1][0].messages[1]["content"] == CUT + REST


def test_a_new_conversation_cancels_the_answer(page: Page, worker: Served) -> None:
    page.say("Tell me #long", wait=False)
    wait_for(lambda: len(page.text(SAID)) > 50)
    page.keys(Keys.CONTROL, "k")
    wait_for(lambda: page.count(".turn") == 0)
    wait_for(lambda: worker.http.get("/v1/jobs").json()["jobs"][0]["state"] == "cancelled")
    page.say("Fresh #short")
    asked = worker.engine.seen[-1][0].messages
    assert asked == ({"role": "user", "content": "Fresh #short"},)
    page.click("#conversations .open", "Tell me #long")
    wait_for(lambda: page.text(".user .text") == "Tell me #long")
    assert len(page.text(SAID)) > 50, "what had come is kept"


@pytest.mark.slow
def test_escape_stops_and_up_recalls(page: Page) -> None:
    page.say("first #short")
    page.say("second #long", wait=False)
    wait_for(lambda: len(page.text(SAID)) > 50)
    page.keys(Keys.ESCAPE)
    page.settled()
    assert "stopped" in page.text(".answer:last-child .note")

    def field() -> str:
        return str(page.run("return document.querySelector('#prompt').value"))

    page.keys(Keys.ARROW_UP)
    assert field() == "second #long"
    page.keys(Keys.ARROW_UP)
    assert field() == "first #short"
    page.keys(Keys.ARROW_UP, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert field() == ""
    page.keys("my own", Keys.ARROW_UP)
    assert field() == "my own", "what is being written is not replaced"


@pytest.mark.slow
def test_a_question_waits_while_the_model_loads(tab: Page) -> None:
    hold = threading.Event()
    server = Served(Fake(load_hold=hold, script=script), token="").start()
    try:
        tab.driver.get(server.url + "/")
        wait_for(lambda: tab.text("#state") == "loading")
        wait_for(lambda: tab.is_shown("#loading-bar"))
        tab.say("Soon? #short", wait=False)
        wait_for(lambda: "waiting: the model is being loaded" in tab.text(".answer .note"))
        hold.set()
        tab.settled()
        assert tab.text(SAID) == "Four wings."
        assert not tab.is_shown("#loading")
    finally:
        server.__exit__()


@pytest.mark.slow
def test_a_question_waits_while_the_engine_is_restarted(tab: Page) -> None:
    with Served(Fake(script=script), token="") as server:
        tab.open(server)
        server.engine.state = "restarting"
        wait_for(lambda: tab.text("#state") == "restarting")
        assert "restarted" in tab.text("#loading-text")
        tab.say("Still there? #short", wait=False)
        wait_for(lambda: "waiting: the engine is being restarted" in tab.text(".answer .note"))
        server.engine.state = "ready"
        tab.settled()
        assert tab.text(SAID) == "Four wings."
        # The engine is lost between the page's last look and its question: the worker's 503 is no
        # error to the user.
        server.engine.state = "restarting"
        tab.say("And now? #short", wait=False)
        time.sleep(1.5)
        server.engine.state = "ready"
        tab.settled()
        assert tab.count(".card:not([hidden])") == 0
        assert tab.text(SAID) == "Four wings."


@pytest.mark.slow
def test_what_waits_can_be_stopped_and_what_never_comes_is_told(tab: Page) -> None:
    with Served(Fake(script=script), token="") as server:
        tab.open(server)
        server.engine.state = "restarting"
        wait_for(lambda: tab.text("#state") == "restarting")
        tab.say("Soon? #short", wait=False)
        wait_for(lambda: "waiting" in tab.text(".answer .note"))
        tab.click("#stop")
        tab.settled()
        assert "Stopped before the model could answer" in tab.text(".card")
        tab.click(".card button", "Try again")
        wait_for(lambda: "waiting" in tab.text(".answer .note"))
        server.engine.break_down(WorkerError("the engine cannot be started any more"))
        wait_for(lambda: "cannot be started any more" in tab.text(".card").lower())
        assert tab.text(".user .text") == "Soon? #short"
        tab.driver.get("about:blank")


@pytest.mark.slow
def test_an_answer_that_fails_in_the_middle_keeps_what_came(tab: Page) -> None:
    with Served(Fake(script=script, fail_at=300), token="") as server:
        tab.open(server)
        tab.say("Tell me #long")
        assert "failed as it was told" in tab.text(".card")
        assert tab.text(SAID).startswith("Line 0 of a very long answer")
        server.fake.fail_at = None
        tab.click("[aria-label='Continue answer']")
        wait_for(lambda: tab.text(SAID).endswith(REST.strip()))
        tab.settled()
        assert not tab.is_shown(".answer .card")
        tab.driver.get("about:blank")


@pytest.mark.slow
def test_a_text_file_goes_with_the_question(page: Page, worker: Served, tmp_path: Path) -> None:
    notes, picture = tmp_path / "notes.md", tmp_path / "picture.png"
    notes.write_text("Bees:\n```\nfour wings\n```\n")
    picture.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    page.attach(str(notes), str(picture))
    wait_for(lambda: "is a picture; this model reads text only" in page.text("#file-error"))
    assert page.texts("#files li") == ["notes.md×"]
    page.say("How many? #short")
    assert page.texts("#files li") == []
    assert "notes.md (25 characters)" in page.text(".user .part summary")
    sent = worker.engine.seen[-1][0].messages[-1]["content"]
    assert sent == ("File: notes.md\n````\nBees:\n```\nfour wings\n```\n````\n\nHow many? #short")


@pytest.mark.slow
def test_copying(page: Page) -> None:
    granted = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", granted)
    page.say("Bees, please #markdown")
    read = "const done = arguments[0]; navigator.clipboard.readText().then(done, done)"
    for label, start in (
        ("Copy code", "def hive"),
        ("Copy answer", "# Bees"),
        ("Copy question", "Bees, please"),
    ):
        page.click(f"[aria-label='{label}']")
        wait_for(lambda label=label: page.text(f"[aria-label='{label}']") == "Copied")  # type: ignore[misc]
        assert page.run(read, wait=True).startswith(start)
