"""Parameters with their true defaults, the system message and its presets, colours."""

from __future__ import annotations

import pytest

from rbee_worker.params import GROUPS, PARAMETERS
from tests.page.browser import Page
from tests.server.served import Served, wait_for


def test_every_parameter_of_a_job_stands_in_its_group_with_its_default(
    page: Page, worker: Served
) -> None:
    info = worker.http.get("/info").json()
    shown = page.run(
        "return [...document.querySelectorAll('#parameters details')].map((d) => [d.dataset.group,"
        "[...d.querySelectorAll('[name]')].map((f) => f.name)])"
    )
    wanted = {
        group: {n for n in names if any(p.name == n and "job" in p.surfaces for p in PARAMETERS)}
        for group, names in GROUPS.items()
    }
    assert {group: set(names) for group, names in shown} == wanted
    kept = {name for names in wanted.values() for name in names}
    for name, found in info["defaults"]["chat"].items():
        if name not in kept:
            continue
        said = page.text(f".parameter:has([name={name}]) .default")
        assert said.endswith(found["origin"]), name
    assert page.text(".parameter:has([name=temperature]) .default") == "0.8 · worker default (chat)"
    length = page.text(".parameter:has([name=max_tokens]) .default")
    assert length == "the rest of the context · worker default (chat)"
    assert page.text(".parameter:has([name=seed]) .about").startswith("same seed, same request")


def test_parameters_of_every_kind_reach_the_worker(page: Page, worker: Served) -> None:
    given = {
        "temperature": "0.25",
        "top_k": "7",
        "stop": "END\\n\nSTOP",
        "stop_token_ids": "3, 4",
        "logit_bias": "65=-1.5\n66=2",
        "ignore_eos": "true",
        "logprobs": "2",
        "choice": "yes\nno",
    }
    for name, text in given.items():
        page.write(f"#parameters [name={name}]", text)
    assert page.text("[data-group=Sampling] .count") == " 2 set"
    page.say("Is it? #short")
    params = worker.engine.seen[-1][1].params
    assert (params.temperature, params.top_k, params.ignore_eos) == (0.25, 7, True)
    assert params.stop == ("END\n", "STOP")
    assert params.stop_token_ids == (3, 4)
    assert params.logit_bias == {65: -1.5, 66: 2.0}
    assert params.constraint.text == '["yes","no"]'
    assert page.count(".answer .logprobs tbody tr") == len("Four wings.")
    page.again()  # they are kept
    assert page.run("return document.querySelector('[name=top_k]').value") == "7"
    page.click("#defaults")
    page.say("And now? #short")
    origins = worker.engine.seen[-1][1].origins
    assert origins["temperature"] == "worker default (chat)"


@pytest.mark.slow
def test_a_parameter_that_cannot_be_sent_is_told(page: Page) -> None:
    page.write("#parameters [name=json_schema]", "{no json")
    page.say("Is it? #short")
    assert "json_schema is no JSON" in page.text(".card")
    page.write("#parameters [name=json_schema]", "")
    page.write("#parameters [name=stop_token_ids]", "3, x")
    page.click(".card button", "Try again")
    wait_for(lambda: 'stop_token_ids: "x" is no number' in page.text(".card"))
    page.settled()


@pytest.mark.slow
def test_system_message_and_presets(page: Page, worker: Served) -> None:
    page.write("#preset", "Teacher")
    page.say("One #short")
    first = worker.engine.seen[-1][0].messages[0]
    assert first["role"] == "system"
    assert "patient teacher" in first["content"]
    page.write("#system", "Speak like a bee.")
    page.write("#preset-name", "Bee")
    page.click("#preset-form button", "Save as preset")
    page.again()
    assert "Bee" in page.texts("#preset option")
    page.write("#system", "")
    page.click("#new")
    page.say("Two #short")
    assert worker.engine.seen[-1][0].messages[0]["role"] == "user"
    page.write("#preset", "Bee")
    page.say("Three #short")
    assert worker.engine.seen[-1][0].messages[0]["content"] == "Speak like a bee."
    page.click("#preset-remove")
    assert "Bee" not in page.texts("#preset option")


@pytest.mark.slow
def test_colours_can_be_chosen(page: Page) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(paper)
    page.write("#theme", "dark")
    dark = page.run(paper)
    assert light != dark
    page.again()
    assert page.run(paper) == dark
