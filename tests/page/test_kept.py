"""Conversations that the browser keeps: found again, searched, deleted, exported, imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.page.browser import Page
from tests.server.served import Served, wait_for

DOWNLOADED = """
const done = arguments[1];
const make = URL.createObjectURL;
URL.createObjectURL = (blob) => {
  URL.createObjectURL = make;
  blob.text().then(done);
  return make.call(URL, blob);
};
document.querySelector(arguments[0]).click();
"""


def list_of(page: Page) -> list[str]:
    return page.texts("#conversations .open")


def wait_for_list(page: Page, *titles: str) -> None:
    wait_for(lambda: list_of(page) == list(titles))


@pytest.mark.slow
def test_conversations_are_kept_searched_renamed_and_deleted(page: Page) -> None:
    page.say("Tell me of bees #short")
    page.click("#new")
    page.say("Tell me of ants")
    wait_for_list(page, "Tell me of ants", "Tell me of bees #short")
    page.again()
    wait_for(lambda: page.text(".user .text") == "Tell me of ants")
    assert page.text(".answer .text") == "You said: Tell me of ants"
    assert page.text(".answer .note").startswith("25 tokens")
    page.write("#search", "WINGS")  # a word of an answer
    wait_for_list(page, "Tell me of bees #short")
    page.write("#search", "wasps")
    wait_for(lambda: page.text("#none") == "Nothing found.")
    page.write("#search", "")
    wait_for(lambda: len(list_of(page)) == 2)
    page.click("[aria-label='Rename Tell me of bees #short']")
    page.keys("Bees\n", css="#conversations input")
    wait_for(lambda: "Bees" in list_of(page))
    page.click("#conversations .open", "Bees")
    wait_for(lambda: page.text(".answer .text") == "Four wings.")
    assert page.press_twice("[aria-label='Delete Bees']") == "Sure?"
    wait_for_list(page, "Tell me of ants")
    assert page.count(".turn") == 0
    page.again()
    wait_for_list(page, "Tell me of ants")


@pytest.mark.slow
def test_an_answer_goes_on_after_the_page_is_loaded_anew(page: Page, worker: Served) -> None:
    page.say("Tell me #long", wait=False)
    wait_for(lambda: len(page.text(".answer .text")) > 2000)
    page.again()
    wait_for(lambda: len(page.text(".answer .text")) > 10_000)
    assert worker.http.get("/v1/jobs").json()["jobs"][0]["state"] == "running"
    page.click("#stop")
    page.settled()
    lines = page.texts(".answer .text p")
    whole = [f"Line {n} of a very long answer that somebody will stop." for n in range(len(lines))]
    assert lines[:-1] == whole[:-1], "nothing lost, nothing doubled"


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True], ids=["one", "all"])
def test_what_is_deleted_during_its_answer_stays_deleted(
    page: Page, worker: Served, everything: bool
) -> None:
    page.say("Tell me #long", wait=False)
    wait_for(lambda: len(page.text(".answer .text")) > 2000)
    wait_for_list(page, "Tell me #long")
    if everything:
        page.click("#clear")
        page.click("#clear-sure button", "Delete all")
    else:
        page.press_twice("[aria-label='Delete Tell me #long']")
    wait_for_list(page)
    wait_for(lambda: worker.http.get("/v1/jobs").json()["jobs"][0]["state"] == "cancelled")
    page.again()
    page.say("Another #short")
    wait_for_list(page, "Another #short")


@pytest.mark.slow
def test_export_and_import_give_the_same_conversation(page: Page, tmp_path: Path) -> None:
    page.write("#system", "Be brief.")
    page.say("One #short")
    page.click("[aria-label='Regenerate answer']")
    page.settled()
    exported = page.run(DOWNLOADED, "#export", wait=True)
    text = page.run(DOWNLOADED, "#export-one", wait=True)
    assert text == (
        "# One #short\n\n> Be brief.\n\n## You\n\nOne #short\n\n## Assistant\n\nFour wings.\n"
    )
    found = json.loads(exported)
    assert found["format"] == "rbee-conversations"
    file = tmp_path / "all.json"
    file.write_text(exported)
    page.run("document.querySelector('#clear').click()")
    page.click("#clear-sure button", "Delete all")
    wait_for(lambda: list_of(page) == [])
    page.one("#import-file").send_keys(str(file))
    wait_for_list(page, "One #short")
    wait_for(lambda: page.text(".answer .text") == "Four wings.")
    assert page.texts(".answer .siblings span") == ["2/2"]
    assert page.run("return document.querySelector('#system').value") == "Be brief."
    again = json.loads(page.run(DOWNLOADED, "#export", wait=True))

    def shape(saved: dict[str, Any]) -> list[Any]:
        order = {turn["id"]: n for n, turn in enumerate(saved["turns"])}
        return [(t["role"], t["text"], order.get(t["parent"])) for t in saved["turns"]]

    assert shape(again["conversations"][0]) == shape(found["conversations"][0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "no JSON"),
        ('{"a": 1}', "no conversations"),
        ('[{"role": "user", "content": 7}]', "A message has no text"),
        ('[{"role": "tool", "content": "x"}]', "role tool"),
        ('{"format": "rbee-conversations", "conversations": [{"title": 3}]}', "no title"),
        (
            '{"format": "rbee-conversations", "conversations": [{"title": "t", "system": "",'
            ' "turns": [{"id": "a", "parent": "b", "role": "user", "text": ""}]}]}',
            "follows none",
        ),
    ],
)
def test_a_file_that_is_no_export_is_told(
    page: Page, tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(content)
    page.one("#import-file").send_keys(str(file))
    wait_for(lambda: said in page.text("#feed"))
    assert list_of(page) == []


@pytest.mark.slow
def test_what_the_terminal_saved_can_be_imported_and_is_only_text(
    page: Page, tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<img src=x onerror=alert(1)>"},
        {"role": "assistant", "content": "**Yes** <script>alert(1)</script>"},
    ]
    file.write_text(json.dumps({"model": "m", "params": {}, "messages": turns}))
    page.one("#import-file").send_keys(str(file))
    wait_for(lambda: page.text(".answer strong") == "Yes")
    assert page.text(".user .text") == "<img src=x onerror=alert(1)>"
    assert page.run("return document.querySelectorAll('#turns :is(img, script)').length") == 0
    call = {"id": "c", "name": "<b>find</b>", "arguments": '{"a": "<img src=x>"}'}
    turns = [
        {"id": "1", "parent": None, "role": "user", "text": "Where?"},
        {"id": "2", "parent": "1", "role": "assistant", "text": "", "calls": [call]},
    ]
    saved = {"title": "Calls", "system": "", "turns": turns, "chosen": {}}
    file.write_text(json.dumps({"format": "rbee-conversations", "conversations": [saved]}))
    page.one("#import-file").send_keys(str(file))
    wait_for(lambda: page.text(".answer .part summary") == "Calls <b>find</b>")
    assert page.text(".answer .part pre") == call["arguments"]
    assert not page.is_open(".answer .part")
    page.press_twice("[aria-label='Delete Calls']")
    wait_for_list(page, "<img src=x onerror=alert(1)>")
