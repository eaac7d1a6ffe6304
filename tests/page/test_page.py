"""The page in a headless browser: the token, a streamed answer, the figures, a phone."""

from __future__ import annotations

import threading
from pathlib import Path

from selenium.webdriver.common.keys import Keys

from rbee_worker.model_info import Purpose
from tests.page.browser import DESKTOP, PHONE, Page, watched
from tests.page.conftest import NOTE
from tests.server.fake_engine import Fake
from tests.server.served import Served, wait_for
from tests.server.talking import Talking
from tests.tokenizer.tool_templates import QWEN3


def test_it_asks_for_the_token_and_refuses_a_wrong_one(tab: Page, worker: Served) -> None:
    tab.driver.get(worker.url + "/page/style.css")
    tab.run("sessionStorage.clear()")
    tab.driver.get(worker.url + "/")
    wait_for(lambda: tab.is_open("#gate"))
    tab.one("#token").send_keys("not the right token")
    tab.one("#gate-form button").click()
    wait_for(lambda: "refused" in tab.text("#gate-error"))
    tab.one("#token").send_keys(worker.token)
    tab.one("#gate-form button").click()
    wait_for(lambda: tab.text("#state") == "ready")
    assert tab.text("#model") == "smollm2"
    stored = tab.run("return [sessionStorage.length, localStorage.length]")
    assert stored == [1, 0]
    assert worker.token not in tab.driver.current_url
    tab.console("status of 401")


def test_an_answer_streams_with_its_figures_and_its_story(page: Page, worker: Served) -> None:
    page.requests()
    page.write("#parameters [name=temperature]", "0.5")
    page.write("#parameters [name=max_tokens]", "1600")
    page.say("Tell me of bees #long", wait=False)
    wait_for(lambda: page.text(".user .text") == "Tell me of bees #long")

    def look() -> str:
        return f"{len(page.text('.answer .text'))} {page.text('.answer .note')}"

    seen = watched(look, lambda: page.count(".answer:not(.busy) .report") == 1)
    assert len(seen) > 5, "the text grew while it was watched"
    assert any("tok/s" in text and "max tokens" not in text for text in seen), "its speed was shown"
    job = worker.http.get("/v1/jobs").json()["jobs"][0]["job_id"]
    state = worker.http.get(f"/v1/jobs/{job}").json()
    lines = [line for line in state["text"].split("\n") if line]
    assert page.texts(".answer .text p") == lines
    assert "1600 tokens" in page.text(".answer .note")
    assert "max tokens reached" in page.text(".answer .note")
    assert "MAX_TOKENS" in page.text(".answer .stop")
    rows = page.text(".answer .sampling tbody")
    assert "temperature0.5request" in rows
    assert "top_p0.95worker default (chat)" in rows
    assert "top_k40worker default (chat)" in rows
    assert "Reading a prompt of" in page.text("#feed")
    assert page.text("#feed").count(NOTE) == 1, "told once, whatever repeats it"
    assert "%" in page.text("#kv-text")
    assert page.text("#queue").isdigit()
    used = state["prompt_tokens"] + state["tokens_out"]
    assert page.text("#context-text") == f"{used:,} of 262,144 tokens of context"
    assert {url.removeprefix(worker.url)[:1] for url in page.requests()} == {"/"}


def test_an_answer_has_the_rest_of_the_context_unless_told_otherwise(page: Page) -> None:
    page.say("Wings? #short")
    prompt = int(page.text(".answer .times").split("prompt")[1].split()[0])
    assert f"max_tokens{262144 - prompt}worker default (chat)" in page.text(".answer .sampling")


def test_the_conversation_goes_on_and_can_be_stopped(page: Page) -> None:
    page.say("first #short")
    page.say("second #long", wait=False)
    wait_for(lambda: len(page.text(".answer:last-child .text")) > 200)
    page.one("#stop").click()
    page.settled()
    assert "stopped" in page.text(".answer:last-child .note")
    assert "CANCELLED" in page.text(".answer:last-child .stop")
    assert page.is_shown("#send")


def test_a_refusal_is_a_card_and_the_question_is_kept(page: Page) -> None:
    page.write("#parameters [name=temperature]", "9")
    page.say("hot #short")
    assert "temperature" in page.text(".answer.failed .card")
    assert page.text(".user .text") == "hot #short"
    page.write("#parameters [name=temperature]", "")
    page.click(".card button", "Try again")
    wait_for(lambda: page.text(".answer .text") == "Four wings.")
    assert page.count(".answer") == 1
    assert not page.is_shown(".answer .card")


def test_it_works_on_a_phone_without_a_token(tab: Page) -> None:
    with Served(Fake(token_s=0.001), token="") as server:
        tab.size(PHONE)
        try:
            tab.open(server)
            tab.say("hello")
            script = "return document.documentElement.scrollWidth <= window.innerWidth"
            assert tab.run(script)
            send = tab.one("#send")
            assert send.is_displayed()
            assert send.rect["height"] >= 40
            for panel, inside in (("panel", "#parameters"), ("sidebar", "#conversations")):
                assert not tab.is_shown(f"#{panel}")
                tab.one(f"#{panel}-toggle").click()
                assert tab.is_shown(inside)
                assert tab.run(script)
            tab.click("#conversations .open")
            assert not tab.is_shown("#sidebar")
            assert tab.is_shown(".answer")
        finally:
            tab.driver.get("about:blank")
            tab.size(DESKTOP)


def test_an_answer_is_busy_until_its_end_is_drawn(page: Page) -> None:
    """Also one that ends before the next frame, which may come late."""
    page.run("globalThis.requestAnimationFrame = (draw) => setTimeout(draw, 700)")
    page.write("#parameters [name=stop_token_ids]", "x")
    page.keys("refused at once" + Keys.ENTER)
    wait_for(lambda: page.count(".answer") == 1 and page.count(".answer.busy") == 0)
    assert '"x" is no number' in page.text(".answer .card")


def test_who_reads_the_end_stays_there_when_the_window_changes(page: Page) -> None:
    """As when a phone's keyboard opens; who has scrolled up stays where they are."""
    log = "const l = document.querySelector('#log'); return l.scrollHeight - l.scrollTop"
    beyond = log + " - l.clientHeight"
    page.say("Bees, please #markdown")
    page.say("And more #markdown")
    try:
        page.size((DESKTOP[0], 500))
        wait_for(lambda: page.run(beyond) < 2)
        assert not page.is_shown("#to-end")
        page.run("document.querySelector('#log').scrollTop = 0")
        wait_for(lambda: page.is_shown("#to-end"))
        page.size((DESKTOP[0], 400))
        page.size((DESKTOP[0], 420))
        assert page.run("return document.querySelector('#log').scrollTop") == 0
        page.click("#to-end")
        wait_for(lambda: page.run(beyond) < 2 and not page.is_shown("#to-end"))
    finally:
        page.size(DESKTOP)


def test_a_model_that_generates_no_text_says_what_it_is_for(tab: Page) -> None:
    """Also if the page was open before the model was loaded."""
    hold = threading.Event()
    fake = Fake(purpose=Purpose(task="embed"), load_hold=hold)
    server = Served(fake, token="").start()
    try:
        tab.driver.get(server.url + "/")
        wait_for(lambda: tab.text("#state") == "loading")
        assert tab.one("#prompt").is_enabled()
        hold.set()
        wait_for(lambda: "makes vectors of texts" in tab.text("#empty p"))
        assert not tab.one("#prompt").is_enabled()
        assert not tab.one("#send").is_enabled()
        assert not tab.is_shown("#ideas")
    finally:
        server.__exit__()


def test_reasoning_and_calls_stand_folded_above_the_answer(tab: Page, tmp_path: Path) -> None:
    """Nothing that the model writes becomes part of the page."""
    thought = "Is <b>it</b>?"
    with Talking(tmp_path, QWEN3, [f"<think>\n{thought}\n</think>\n\nYes."], token="") as server:
        tab.open(server)
        tab.write("#parameters [name=seed]", "0")
        tab.say("Is it?")
        assert tab.text(".answer .text") == "Yes."
        assert tab.text(".answer .part pre") == thought
        assert tab.text(".answer .part summary") == "Reasoning"
        assert not tab.is_open(".answer .part")
        assert not tab.is_shown(".answer .part pre")
        tab.one(".answer .part summary").click()
        assert tab.is_shown(".answer .part pre")
        assert "reasoning" in tab.text(".answer .times")
