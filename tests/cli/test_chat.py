"""`chat` on a pseudo terminal, as a person has it; the engine is a script."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.pseudo import ALT_ENTER, CTRL_C, CTRL_D, ENTER, Terminal

PROGRAM = """
import sys
from rbee_worker.cli import main, session
from tests.cli.fakes import FakeClient
session.EngineClient = FakeClient({arguments})
sys.argv = ["rbee-worker", "chat", {options}]
main.main()
"""


def chat(home: Path, arguments: str = "", options: str = "") -> Terminal:
    code = PROGRAM.format(arguments=arguments, options=options).strip().replace("\n", "; ")
    return Terminal(code, home)


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Terminal]:
    with chat(tmp_path) as terminal:
        terminal.prompt()
        yield terminal


def say(terminal: Terminal, line: str) -> None:
    terminal.send(line + ENTER)


def test_an_answer_is_streamed_with_its_figures_and_ctrl_d_leaves(talk: Terminal) -> None:
    say(talk, "Where?")
    talk.wait_for("Next in line.")
    talk.wait_for("Paris.")
    talk.wait_for("stopped: end token </s> (from config.json)")
    talk.prompt()
    talk.send(CTRL_D)
    assert talk.leave() == 0


def test_commands(talk: Terminal, tmp_path: Path) -> None:
    for line, answer in (
        ("/help", "Ctrl-C stops an answer"),
        ("/set temperature 0.7", "temperature = 0.7"),
        ("/set heat 9", "heat"),
        ("/set temprature", "write temperature"),
        ("/rety", "/retry? /help lists them all"),
        ("/set temperature 9", "temperature: must be at most 2"),
        ("/set logprobs 2", "shows nothing in a conversation"),
        ("/copy", "there is no answer yet"),
        ("/load", "/load needs a file"),
        ("/system be brief", "System message set."),
        ("/stats", "No answer yet."),
        ("/nonsense", "/help lists them"),
        ("Where?", "stopped:"),
        ("/retry", "stopped:"),
        ("/stats", "all 2 answers"),
        (f"/save {tmp_path}/talk.json", "Saved to"),
        ("/reset", "Conversation forgotten."),
        ("/copy", "there is no answer yet"),
        (f"/load {tmp_path}/talk.json", "Loaded 2 turns from"),
        ("/copy", "Copied by the terminal"),
    ):
        say(talk, line)
        talk.wait_for(answer)
        talk.prompt()
    say(talk, "/quit")
    assert talk.leave() == 0
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["params"] == {"temperature": 0.7}
    assert [m["content"] for m in saved["messages"]] == ["be brief", "Where?", "Paris."]


def test_copy_hands_the_answer_to_the_terminal(talk: Terminal) -> None:
    say(talk, "Where?")
    talk.wait_for("stopped:")
    talk.prompt()
    say(talk, "/copy")
    talk.wait_for("Copied")
    assert f"\x1b]52;c;{base64.b64encode(b'Paris.').decode()}\x07" in talk.raw


def test_an_answer_is_shown_as_markdown(tmp_path: Path) -> None:
    words = r"('# He', 'ad\n\nA **bo', 'ld** word.\n\n- one\n', '- two\n')"
    with chat(tmp_path, words) as talk:
        talk.prompt()
        say(talk, "x")
        talk.wait_for("stopped:")
        screen = talk.screen
        assert "A bold word." in screen
        assert " • two" in screen
        assert "\x1b[1mbold" in talk.raw


def test_long_lines_are_wrapped_between_words(tmp_path: Path) -> None:
    with chat(tmp_path, "('wonderful ' * 40,)") as talk:
        talk.prompt()
        say(talk, "x")
        talk.wait_for("stopped:")
        lines = [line for line in talk.screen.split("\n") if line.count("wonderful") > 1]
        assert lines
        assert not [word for line in lines for word in line.split() if word != "wonderful"]


def test_several_lines_by_alt_enter_and_by_backslash(talk: Terminal, tmp_path: Path) -> None:
    talk.send("one" + ALT_ENTER + "two\\" + ENTER + "three" + ENTER)
    talk.wait_for("stopped:")
    talk.prompt()
    say(talk, f"/save {tmp_path}/talk.json")
    talk.wait_for("Saved to")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["messages"][0]["content"] == "one\ntwo\nthree"


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(tmp_path: Path) -> None:
    with chat(tmp_path, "('word ', 'more '), endless=True") as talk:
        talk.prompt()
        say(talk, "Where?")
        talk.wait_for("more more")
        talk.send("unseen" + CTRL_C)
        talk.wait_for("stopped: cancelled")
        assert "unseen" not in talk.screen
        assert "^C" not in talk.screen
        talk.prompt()
        talk.break_off("half a line")
        say(talk, "/stats")
        talk.wait_for("all 1 answers")
        talk.prompt()
        talk.send(CTRL_D)
        assert talk.leave() == 0


def test_lines_are_remembered_for_the_next_time(tmp_path: Path) -> None:
    for keys in ("Where is it?", "\x1b[A\x1b[A"):  # arrows recall the lines of the first visit
        with chat(tmp_path) as talk:
            talk.prompt()
            say(talk, keys)
            talk.wait_for("stopped:")
            talk.prompt()
            say(talk, f"/save {tmp_path}/{len(keys)}.json")
            talk.wait_for("Saved to")
            talk.prompt()
            talk.send(CTRL_D)
            assert talk.leave() == 0
    second = json.loads((tmp_path / "6.json").read_text())
    assert second["messages"][0]["content"] == "Where is it?"
    history = tmp_path / "rbee-worker" / "chat-history"
    assert history.stat().st_mode & 0o777 == 0o600


def test_an_answer_cannot_steer_the_terminal(tmp_path: Path) -> None:
    with chat(tmp_path, r"('\x1b]0;owned\x07', 'done')") as talk:
        talk.prompt()
        say(talk, "x")
        talk.wait_for("␛]0;owned␇done")


def test_options_of_the_command_line_hold_for_the_conversation(tmp_path: Path) -> None:
    with chat(tmp_path, options="'--temperature', '0.2', '--system', 'be brief'") as talk:
        talk.prompt()
        say(talk, "/set")
        talk.wait_for("max_tokens          = the rest of the context  (worker default (chat))")
        talk.wait_for("temperature         = 0.2  (set)")
        say(talk, "/system")
        talk.wait_for("be brief")


def test_a_model_without_template_cannot_chat(tmp_path: Path) -> None:
    with chat(tmp_path, "chat=False") as talk:
        talk.wait_for("has no chat template. Fix:")
        assert talk.leave() == 2


def test_reasoning_and_calls_are_shown_beside_the_answer(tmp_path: Path) -> None:
    with chat(tmp_path, 'thought="Hm, let me see.", call="get_weather"') as terminal:
        terminal.prompt()
        say(terminal, "Where?")
        terminal.wait_for("Hm, let me see.")
        terminal.wait_for("Paris.")
        terminal.wait_for("calls get_weather({})")
        terminal.prompt()
        say(terminal, f"/save {tmp_path}/talk.json")
        terminal.wait_for("Saved to")
        said = json.loads((tmp_path / "talk.json").read_text())["messages"]
        assert said[-1] == {"role": "assistant", "content": "Paris."}
