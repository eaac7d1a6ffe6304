"""Answers as markdown: what it shows, and that a hostile one can do nothing."""

from __future__ import annotations

import pytest

from tests.page.browser import Page
from tests.page.hostile import HOSTILE
from tests.server.served import Served, wait_for

# What a rendered answer may consist of, and which attributes its elements may have.
ELEMENTS = (
    "a blockquote br button code del div em figcaption figure h3 h4 h5 h6 hr input li ol p pre "
    "span strong table tbody td th thead tr ul"
)
MATHML = (
    "math mrow mi mn mo ms mtext mspace mfrac msqrt mroot mstyle merror mpadded mphantom msub msup "
    "msubsup munder mover munderover mtable mtr mtd mmultiscripts mprescripts menclose"
)
ATTRIBUTES = (
    "class href target rel title type disabled checked aria-label scope start tabindex role"
)

RENDER = """
const [texts, whole, done] = arguments;
globalThis.ran = () => { globalThis.hasRun = true };
globalThis.alert = globalThis.ran;
import("/page/markdown.js").then(async ({Rendering}) => {
  const found = [];
  for (const text of texts) {
    const place = document.createElement("div");
    document.getElementById("turns").append(place);
    const rendering = new Rendering(place);
    for (let n = 7; n < Math.min(text.length, 400); n += 7) rendering.show(text.slice(0, n), false);
    rendering.show(text, true);
    found.push(place);
  }
  await new Promise((later) => setTimeout(later, 300));  // libraries load with the first use
  done(found.map((place) => ({
    elements: [...place.querySelectorAll("*")].map((e) => [e.namespaceURI, e.localName,
      [...e.attributes].map((a) => a.name)]),
    links: [...place.querySelectorAll("[href]")].map((e) => e.href),
    text: place.textContent,
  })));
});
"""


def rendered(page: Page, texts: list[str]) -> list[dict[str, object]]:
    """What becomes of each text, shown as it grows and then whole."""
    found: list[dict[str, object]] = page.run(RENDER, texts, True, wait=True)
    return found


def test_markdown_tables_code_and_links(page: Page) -> None:
    page.say("Bees, please #markdown")
    wait_for(lambda: page.count(".answer .hl-keyword") == 2)  # def, return
    assert page.texts(".answer .text h3") == ["Bees"]
    assert page.texts(".answer :is(strong, em, del)") == ["short", "bold", "deleted"]
    assert "Fish & chips cost $5, or $6 with salt." in page.text(".answer .text")
    assert page.count(".answer .math") == 0
    assert page.texts(".answer li li") == ["inner", "done"]
    assert page.run("return document.querySelector('.answer li input').checked") is True
    assert page.texts(".answer .text th") == ["name", "wings", "legs"]
    assert page.texts(".answer .text td") == ["bee", "4", "6", "fly", "2", "6"]
    align = "return getComputedStyle(document.querySelector('.answer td:nth-child(2)')).textAlign"
    assert page.run(align) == "right"
    links = page.run("return [...document.querySelectorAll('.answer a')].map((a) => a.href)")
    assert links == ["https://example.org/a?b=1", "https://example.org/spy.png"]
    assert page.text(".answer figcaption span") == "python"
    assert page.text(".answer pre code").startswith("def hive(n: int) -> str:\n")
    assert page.texts(".answer .hl-comment") == ["# a comment"]
    assert page.texts(".answer .text > p")[-1] == "The endof it."
    assert page.count(".answer .text br") == 1


def test_formulas_are_drawn_as_mathml(page: Page) -> None:
    page.say("Formulas, please #math")
    wait_for(lambda: page.count(".answer math") == 4 and page.count(".answer .source") == 2)
    assert page.count(".answer math[display=block]") == 2
    assert page.count(".answer mfrac") == 2
    assert page.text(".answer .math.block").replace(" ", "") == "ℝ⊂ℂ"
    assert page.texts(".answer .source") == [r"\frac{1", r"\href{javascript:alert(1)}{x}"]
    assert page.count(".answer [href]") == 0


def test_a_hostile_answer_runs_nothing_and_asks_nobody(page: Page, worker: Served) -> None:
    page.requests()
    found = rendered(page, list(HOSTILE))
    wrong = []
    for text, made in zip(HOSTILE, found, strict=True):
        for space, name, attributes in made["elements"]:  # type: ignore[attr-defined]
            html = space == "http://www.w3.org/1999/xhtml"
            if name not in (ELEMENTS if html else MATHML).split():
                wrong.append((text[:60], name))
            if html and not set(attributes) <= {*ATTRIBUTES.split()}:
                wrong.append((text[:60], name, attributes))
            if any(a.startswith("on") or a in ("src", "srcset", "style") for a in attributes):
                wrong += [] if not html and "style" in attributes else [(text[:60], attributes)]
        for link in made["links"]:  # type: ignore[attr-defined]
            if not link.startswith(("https:", "http:", "mailto:")):
                wrong.append((text[:60], link))
    assert wrong == []
    assert page.run("return globalThis.hasRun") is None
    assert {url.removeprefix(worker.url)[:1] for url in page.requests()} == {"/"}
    assert page.run("return document.getElementById('prompt').tagName") == "TEXTAREA"


@pytest.mark.slow
def test_a_hostile_answer_of_the_worker_runs_nothing_either(page: Page, worker: Served) -> None:
    """All of it through the whole page, as answers, questions, titles and errors."""
    page.run("globalThis.ran = globalThis.alert = () => { globalThis.hasRun = true }")
    page.requests()
    for text in HOSTILE[:8]:
        page.write("#prompt", text)
        page.click("#send")
        page.settled()  # the answer repeats the question
    page.write("#parameters [name=stop]", "<img src=x onerror=ran()>")
    page.say("<svg onload=ran()>")
    assert page.run("return globalThis.hasRun") is None
    inside = "return document.querySelectorAll('#turns :is(script, img, svg, iframe)').length"
    assert page.run(inside) == 0
    assert {url.removeprefix(worker.url)[:1] for url in page.requests()} == {"/"}


def test_no_text_can_become_markup(page: Page) -> None:
    """The browser itself refuses, whatever the page's code does."""
    script = """
    const found = [];
    for (const work of [
      () => { document.body.innerHTML = "<b>x</b>"; },
      () => document.body.insertAdjacentHTML("beforeend", "<b>x</b>"),
      () => document.write("<b>x</b>"),
      () => new DOMParser().parseFromString("<b>x</b>", "text/html"),
      () => { document.createElement("script").text = "1"; },
      () => { document.createElement("script").src = "/page/app.js"; },
    ]) try { work(); found.push(String(work)); } catch (e) { }
    const made = document.createElement("script");
    made.append("globalThis.hasRun = true");
    document.body.append(made);
    const drawn = document.createElement("p");
    drawn.setAttribute("style", "color: rgb(1, 2, 3)");
    document.body.append(drawn);
    const styled = getComputedStyle(drawn).color === "rgb(1, 2, 3)";
    for (const one of [made, drawn]) one.remove();
    return [found, globalThis.hasRun ?? false, styled]"""
    assert page.run(script) == [[], False, False]
    page.console("Trusted", "trusted", "Content Security Policy")


@pytest.mark.slow
def test_a_growing_answer_ends_as_the_whole_one(page: Page) -> None:
    """Blocks that do not change keep their elements while more is written."""
    script = """
    const [text, end, done] = arguments;
    import("/page/markdown.js").then(({Rendering}) => {
      const [grown, other, whole] = [1, 2, 3].map(() => document.createElement("div"));
      const rendering = new Rendering(grown);
      let first = null, kept = true;
      for (let n = 1; n <= text.length; n += 1) {
        rendering.show(text.slice(0, n), false);
        if (n > 40) { first ??= grown.firstChild; kept &&= first === grown.firstChild; }
      }
      new Rendering(other).show(text, false);
      const same = grown.textContent === other.textContent;
      rendering.show(text + end, false);
      rendering.show(text + end, true);
      new Rendering(whole).show(text + end, true);
      setTimeout(() => done([kept, same, grown.innerHTML === whole.innerHTML]), 300);
    })"""
    text = (
        "First of all, a paragraph.\r\n\r\n```js\nlet a = 1;\n\nlet b;\n```\n\n- one\n\n- two\n"
        "  - in\n\n  of two\n1. other\n\n| a |\n|---|\n| 1 |\n\n> q\n> r\n\nHead\n---\n\n$$a$$\n\n"
        "See [this][x]."
    )
    end = "\n\n[x]: https://a.example/\n"
    assert page.run(script, text, end, wait=True) == [True, True, True]
