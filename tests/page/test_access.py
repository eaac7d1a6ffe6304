"""The page for everybody: axe-core, contrast of borders, screen readers, no mouse."""

from __future__ import annotations

from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.npm import installed
from tests.page.browser import DESKTOP, PHONE, Page
from tests.server.served import wait_for

AXE = "axe-core@4.14.1"

CONTRAST = """
const rgb = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
const clear = (c) => c.length === 4 && c[3] === 0;
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
const behind = (e) => { while (e) { const c = rgb(getComputedStyle(e).backgroundColor);
  if (!clear(c)) return c; e = e.parentElement; } return [255, 255, 255]; };
const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05); };
return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility()).map((e) => {
  const style = getComputedStyle(e), around = behind(e.parentElement);
  const filled = rgb(style.backgroundColor);
  const edge = rgb(style.borderTopColor);
  const shows = clear(edge) ? filled : edge;
  return [e.id || e.textContent.slice(0, 20) || e.name, ratio(shows, around)];
});
"""


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core's script."""
    return (installed(AXE) / "axe.min.js").read_text()


def faults(page: Page, axe: str) -> list[Any]:
    """What axe-core finds, of any weight: (rule, impact, where)."""
    page.run(axe + "; window.axe = axe")
    found = page.run("const done = arguments[0]; axe.run(document).then(done)", wait=True)
    return [
        (rule["id"], rule["impact"], [node["target"] for node in rule["nodes"]][:3])
        for rule in found["violations"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing(page: Page, axe: str, size: tuple[int, int], scheme: str) -> None:
    page.size(size, scheme)
    try:
        assert faults(page, axe) == []
        page.say("Bees #markdown")
        page.say("Formulas #math")
        page.write("#parameters [name=temperature]", "9")
        page.say("hot #short")
        for folded in ("#parameters details", "details.report"):
            page.run(
                "for (const d of document.querySelectorAll(arguments[0])) d.open = true", folded
            )
        page.click("[aria-label='Edit question']")
        assert faults(page, axe) == []
        if size == PHONE:
            for panel in ("sidebar", "panel"):
                page.click(f"#{panel}-toggle")
                assert faults(page, axe) == []
        page.click("#keys-open")
        assert faults(page, axe) == []
        page.click("#keys button")
        page.click("#clear")
        assert faults(page, axe) == []
        page.click("#clear-sure button", "Keep them")
    finally:
        page.size(DESKTOP)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_borders_of_controls_have_a_contrast_of_three(page: Page, scheme: str) -> None:
    page.size(DESKTOP, scheme)
    try:
        page.run("for (const d of document.querySelectorAll('details')) d.open = true")
        controls = "input:not([type=file]), textarea, select, nav button, .idea, #ask button"
        found = page.run(CONTRAST, controls)
        assert len(found) > 30
        assert [(name, ratio) for name, ratio in found if ratio < 3] == []
    finally:
        page.size(DESKTOP)


def test_a_finished_answer_is_announced_and_speakers_are_named(page: Page) -> None:
    page.say("Wings? #short")
    assert page.text("#announcer") == "Assistant: Four wings."
    assert page.one("#announcer").get_attribute("aria-live") == "polite"
    assert page.texts("#turns h2") == ["You", "Assistant"]
    assert page.one("#log").get_attribute("aria-live") is None, "not every token is read aloud"
    assert page.one(".answer").get_attribute("aria-busy") == "false"


@pytest.mark.slow
def test_everything_can_be_reached_without_a_mouse(page: Page) -> None:
    page.say("Wings? #short")
    reached = set()
    page.run("document.querySelector('#new').focus()")
    for _ in range(60):
        name = page.run(
            "const e = document.activeElement; return e.id || e.getAttribute('aria-label')"
            " || e.name || e.textContent"
        )
        reached.add(name)
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
    wanted = {"new", "search", "export", "import", "log", "Copy answer", "Regenerate answer"}
    assert wanted | {"attach", "prompt", "send", "preset", "system", "set-temperature"} <= reached
    page.click("#keys-open")
    wait_for(lambda: page.is_open("#keys"))
    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait_for(lambda: not page.is_open("#keys"))
