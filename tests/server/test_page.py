"""The web page in a headless browser: the token, a streamed answer, the figures, a phone."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from rbee_worker.types import Purpose
from tests.server.fake_engine import Fake
from tests.server.served import Served, wait_for
from tests.server.talking import Talking
from tests.tokenizer.tool_templates import QWEN3

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None,
    reason="no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)",
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
PHONE = (390, 844)
NOTE = "weights of two formats were found"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(executable_path=DRIVER)
        driver = webdriver.Chrome(options=options, service=service)
        driver.set_window_size(1280, 860)
        yield driver
        driver.quit()


@pytest.fixture(scope="module")
def busy() -> Iterator[Served]:
    with Served(Fake(token_s=0.015, notes=(NOTE,))) as server:
        yield server


def one(browser: Any, css: str) -> Any:
    return browser.find_element("css selector", css)


def text(browser: Any, css: str) -> str:
    """Text of the last element that `css` finds, shown or folded away."""
    script = "return [...document.querySelectorAll(arguments[0])].at(-1)?.textContent ?? ''"
    found: str = browser.execute_script(script, css)
    return found


def enter(browser: Any, server: Served) -> None:
    browser.get(server.url + "/page/style.css")
    browser.execute_script("sessionStorage.clear()")
    browser.get(server.url + "/")
    wait_for(lambda: one(browser, "#gate").get_attribute("open") is not None)
    one(browser, "#token").send_keys(server.token)
    one(browser, "#gate-form button").click()
    wait_for(lambda: text(browser, "#state") == "ready")


def say(browser: Any, words: str) -> None:
    one(browser, "#prompt").send_keys(words + "\n")


def answered(browser: Any, n: int) -> bool:
    script = "return document.querySelectorAll('.answer:not(.busy) details.done').length"
    return bool(browser.execute_script(script) >= n)


def requests(browser: Any) -> set[str]:
    """Addresses of everything the page has asked for."""
    found = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.add(message["params"]["request"]["url"])
    return found


def test_it_asks_for_the_token_and_refuses_a_wrong_one(browser: Any, busy: Served) -> None:
    browser.get(busy.url + "/")
    wait_for(lambda: one(browser, "#gate").get_attribute("open") is not None)
    one(browser, "#token").send_keys("not the right token")
    one(browser, "#gate-form button").click()
    wait_for(lambda: "refused" in text(browser, "#gate-error"))
    one(browser, "#token").send_keys(busy.token)
    one(browser, "#gate-form button").click()
    wait_for(lambda: text(browser, "#state") == "ready")
    assert text(browser, "#model") == "smollm2"
    stored = browser.execute_script("return [sessionStorage.length, localStorage.length]")
    assert stored == [1, 0]
    assert busy.token not in browser.current_url


def test_an_answer_streams_with_its_figures_and_its_story(browser: Any, busy: Served) -> None:
    enter(browser, busy)
    browser.get_log("performance")
    one(browser, "#params [name=temperature]").send_keys("0.5")
    say(browser, "Tell me of bees")
    seen: set[int] = set()
    rates: set[str] = set()

    def watch() -> bool:
        seen.add(len(text(browser, ".answer .text")))
        rates.add(text(browser, "#rate"))
        return answered(browser, 1)

    wait_for(watch, 40)
    assert len(seen) > 3, "the text grew while it was watched"
    job = busy.http.get("/v1/jobs").json()["jobs"][0]["job_id"]
    state = busy.http.get(f"/v1/jobs/{job}").json()
    assert text(browser, ".answer .text") == state["text"]
    assert text(browser, ".user .text") == "Tell me of bees"
    assert "256 tokens" in text(browser, ".answer .note")
    assert "max tokens reached" in text(browser, ".answer .note")
    assert "MAX_TOKENS" in text(browser, ".answer .stop")
    rows = text(browser, ".answer .sampling tbody")
    assert "temperature0.5request" in rows
    assert "top_p1default" in rows
    assert "Reading a prompt of" in text(browser, "#feed")
    assert text(browser, "#feed").count(NOTE) == 1, "told once, whatever repeats it"
    assert any(rate not in ("–", "") and float(rate) > 20 for rate in rates), rates
    assert "%" in text(browser, "#kv-text")
    assert text(browser, "#queue").isdigit()
    assert {url.removeprefix(busy.url)[:1] for url in requests(browser)} == {"/"}


def test_the_conversation_goes_on_and_can_be_stopped(browser: Any, busy: Served) -> None:
    enter(browser, busy)
    one(browser, "#params [name=max_tokens]").clear()
    one(browser, "#params [name=max_tokens]").send_keys("40")
    say(browser, "first")
    wait_for(lambda: answered(browser, 1), 40)
    one(browser, "#params [name=max_tokens]").clear()
    say(browser, "second")
    wait_for(lambda: len(text(browser, ".answer:last-child .text")) > 5, 20)
    one(browser, "#stop").click()
    wait_for(lambda: answered(browser, 2), 20)
    assert "stopped" in text(browser, ".answer:last-child .note")
    assert "CANCELLED" in text(browser, ".answer:last-child .stop")
    assert one(browser, "#send").is_displayed()


def test_a_refusal_is_told(browser: Any, busy: Served) -> None:
    enter(browser, busy)
    one(browser, "#params [name=temperature]").send_keys("9")
    say(browser, "hot")
    wait_for(lambda: "temperature" in text(browser, ".answer.failed .note"))


def test_it_works_on_a_phone_without_a_token(browser: Any) -> None:
    with Served(Fake(token_s=0.001), token="") as server:
        browser.set_window_size(*PHONE)
        try:
            browser.get(server.url + "/")
            wait_for(lambda: text(browser, "#state") == "ready")
            say(browser, "hello")
            wait_for(lambda: answered(browser, 1), 40)
            script = "return document.documentElement.scrollWidth <= window.innerWidth"
            assert browser.execute_script(script)
            send = one(browser, "#send")
            assert send.is_displayed()
            assert send.rect["height"] >= 40
            assert not one(browser, "#panel").is_displayed()
            one(browser, "#panel-toggle").click()
            assert one(browser, "#feed").is_displayed()
            assert one(browser, "#params").is_displayed()
        finally:
            browser.get("about:blank")
            browser.set_window_size(1280, 860)


def test_nothing_went_wrong_in_the_console(browser: Any) -> None:
    wrong = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    expected = ("status of 401", "status of 400")  # the wrong token, the refused temperature
    assert [e for e in wrong if not any(words in e["message"] for words in expected)] == []


def test_a_model_that_generates_no_text_says_what_it_is_for(browser: Any) -> None:
    """Also if the page was open before the model was loaded."""
    server = Served(Fake(purpose=Purpose(task="embed"), load_s=4)).start()
    try:
        browser.get(server.url + "/page/style.css")
        browser.execute_script("sessionStorage.clear()")
        browser.get(server.url + "/")
        wait_for(lambda: one(browser, "#gate").get_attribute("open") is not None)
        one(browser, "#token").send_keys(server.token)
        one(browser, "#gate-form button").click()
        wait_for(lambda: text(browser, "#state") == "loading")
        assert one(browser, "#prompt").is_enabled()
        wait_for(lambda: "makes vectors of texts" in text(browser, "#empty p"))
        assert not one(browser, "#prompt").is_enabled()
        assert not one(browser, "#send").is_enabled()
        assert not one(browser, "#ideas").is_displayed()
    finally:
        server.__exit__()


def test_reasoning_and_calls_stand_folded_above_the_answer(browser: Any, tmp_path: Path) -> None:
    """Nothing that the model writes becomes part of the page."""
    thought = "Is <b>it</b>?"
    with Talking(tmp_path, QWEN3, [f"<think>\n{thought}\n</think>\n\nYes."]) as server:
        enter(browser, server)
        one(browser, "#params [name=seed]").send_keys("0")
        say(browser, "Is it?")
        wait_for(lambda: answered(browser, 1), 20)
        assert text(browser, ".answer .text") == "Yes."
        assert text(browser, ".answer .part pre") == thought
        assert text(browser, ".answer .part summary") == "Reasoning"
        part = one(browser, ".answer .part")
        assert part.get_attribute("open") is None
        assert not one(browser, ".answer .part pre").is_displayed()
        one(browser, ".answer .part summary").click()
        assert one(browser, ".answer .part pre").is_displayed()
        assert "reasoning" in text(browser, ".answer .times")
