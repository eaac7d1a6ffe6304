"""Tools that the model may call, the results that a person gives, and adapters that answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.page.answers import script
from tests.page.browser import DESKTOP, PHONE, Page
from tests.page.test_access import axe as axe  # a fixture
from tests.page.test_access import faults
from tests.page.test_kept import DOWNLOADED
from tests.server.fake_adapters import adapter
from tests.server.fake_engine import Fake
from tests.server.served import Served, wait_for
from tests.server.talking import Talking
from tests.tokenizer.tool_templates import QWEN3

TOOL = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ARGUMENTS = '{"city": "<b>Lyon</b>"}'
CALL = (
    "<think>\nA tool knows.\n</think>\n\nI will look.\n"
    f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
)


def weather(folder: Path) -> Talking:
    """A model that calls the tool on #0 and answers on #1, whatever else its prompt has."""
    return Talking(folder, QWEN3, [CALL, "It is **sunny**."], by_text=True, token="")


def test_a_call_is_folded_and_gets_its_result(tab: Page, tmp_path: Path) -> None:
    with weather(tmp_path) as server:
        tab.open(server)
        tab.write("#tools", "{no json")
        tab.say("Weather in Lyon? #0")
        assert tab.text(".card p") == "The tools are no JSON."
        tab.write("#tools", json.dumps(TOOL))
        tab.click(".card button", "Try again")
        wait_for(lambda: tab.text(".answer .part summary") == "Calls get_weather")
        tab.settled()
        assert json.loads(tab.text("[data-part=call-0] pre")) == json.loads(ARGUMENTS)
        assert not tab.is_open("[data-part=call-0]")
        assert not tab.is_shown("[data-part=call-0] pre")
        assert tab.run("return document.querySelectorAll('#turns b').length") == 0
        tab.write(".results textarea", "sunny #1")  # the answer shows that the model has read it
        tab.click(".results button", "Send results")
        wait_for(lambda: tab.text(".answer strong") == "sunny")
        tab.settled()
        assert tab.count(".results") == 0
        assert tab.text(".user .part summary") == "Result of get_weather"
        text = tab.run(DOWNLOADED, "#export-one", wait=True)
        assert f"Calls get_weather:\n\n```\n{ARGUMENTS}\n```\n" in text
        assert "## You\n\nResult of get_weather:\n\n```\nsunny #1\n```\n" in text
        file = tmp_path / "kept.json"
        file.write_text(tab.run(DOWNLOADED, "#export", wait=True))
        tab.click("#new")
        wait_for(lambda: tab.count(".turn") == 0)
        tab.one("#import-file").send_keys(str(file))  # what was called and given is in the file
        wait_for(lambda: tab.texts("#turns .part summary")[-1:] == ["Result of get_weather"])
        assert tab.texts("#turns .part summary")[:2] == ["Reasoning", "Calls get_weather"]
        wait_for(lambda: tab.count("#conversations li") == 2)  # it is read a little later
        tab.driver.get("about:blank")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_calls_and_results_for_everybody(tab: Page, axe: str, tmp_path: Path, scheme: str) -> None:
    with weather(tmp_path) as server:
        tab.open(server)
        tab.write("#tools", json.dumps([{"type": "function", "function": TOOL}]))
        tab.say("Weather in Lyon? #0")
        wait_for(lambda: tab.count(".results textarea") == 1)
        try:
            for size in (DESKTOP, PHONE):
                tab.size(size, scheme)
                assert faults(tab, axe) == []
        finally:
            tab.size(DESKTOP)
        tab.keys("rain #1", css=".results textarea")
        tab.keys(Keys.TAB, css=".results textarea")
        assert tab.run("return document.activeElement.textContent") == "Send results"
        tab.driver.get("about:blank")


def test_an_adapter_answers_if_it_is_chosen(tab: Page) -> None:
    fake = Fake(token_s=0.001, script=script, adapters=(adapter("bees/hum"),))
    with Served(fake, token="") as server:
        tab.open(server)
        wait_for(lambda: tab.is_shown("#served"))
        assert tab.texts("#served option") == ["none", "bees/hum"]
        tab.say("One #short")
        assert server.engine.seen[-1][0].adapter == ""
        tab.write("#served", "bees/hum")
        tab.say("Two #short")
        assert server.engine.seen[-1][0].adapter == "bees/hum"
        tab.again()
        wait_for(lambda: tab.run("return document.querySelector('#served').value") == "bees/hum")
        server.engine.adapters.unload("bees/hum")
        tab.say("Three #short")
        assert "The model does not exist here" in tab.text(".card p")
        tab.run("document.querySelector('#served').dispatchEvent(new Event('focus'))")
        wait_for(lambda: not tab.is_shown("#served"))
        tab.click(".card button", "Try again")
        wait_for(lambda: tab.text(".answer .text") == "Four wings.")
        tab.driver.get("about:blank")


def test_where_no_adapter_is_loaded_none_is_offered(page: Page) -> None:
    assert not page.is_shown("#served")
    assert not page.is_shown("#tools"), "the model's template takes no tools"
