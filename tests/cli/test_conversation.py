"""A conversation's turns and commands, without terminal or engine."""

import json
from pathlib import Path

import pytest

from rbee_worker.cli.conversation import Conversation
from rbee_worker.errors import UsageError


def number(name: str, text: str) -> float:
    if name != "temperature":
        raise UsageError(f"{name}: no such parameter.")
    return float(text)


@pytest.fixture
def talk() -> Conversation:
    return Conversation(number)


def test_messages_are_the_system_message_then_the_turns(talk: Conversation) -> None:
    talk.ask("one")
    talk.answer("two")
    talk.set_system(" be brief ")
    assert [(m["role"], m["content"]) for m in talk.messages()] == [
        ("system", "be brief"),
        ("user", "one"),
        ("assistant", "two"),
    ]


def test_an_empty_answer_takes_the_question_back(talk: Conversation) -> None:
    talk.ask("one")
    talk.answer("")
    assert talk.messages() == ()


def test_retry_gives_the_last_question_again(talk: Conversation) -> None:
    talk.ask("one")
    talk.answer("two")
    assert talk.retry() == "one"
    assert talk.turns == []
    with pytest.raises(UsageError, match="nothing"):
        talk.retry()


def test_set_keeps_lists_and_takes_back(talk: Conversation) -> None:
    assert talk.set("") == "Every parameter has its default."
    assert talk.set("temperature 0.7") == "temperature = 0.7"
    assert talk.params == {"temperature": 0.7}
    assert talk.set("") == "temperature = 0.7"
    assert talk.set("temperature") == "temperature has its default."
    assert talk.params == {}


def test_a_refused_value_changes_nothing(talk: Conversation) -> None:
    talk.set("temperature 0.7")
    with pytest.raises(UsageError):
        talk.set("heat 9")
    assert talk.params == {"temperature": 0.7}


def test_system_shows_sets_and_removes(talk: Conversation) -> None:
    assert talk.set_system("") == "No system message."
    talk.set_system("be brief")
    assert talk.set_system("") == "be brief"
    assert talk.set_system("-") == "System message removed."
    assert talk.system is None


def test_reset_forgets_turns_and_keeps_the_rest(talk: Conversation) -> None:
    talk.set_system("be brief")
    talk.set("temperature 0.7")
    talk.ask("one")
    talk.reset()
    assert [m["role"] for m in talk.messages()] == ["system"]
    assert talk.params == {"temperature": 0.7}


def test_save_writes_what_was_said_and_never_over_a_file(
    talk: Conversation, tmp_path: Path
) -> None:
    talk.ask("où?")
    talk.answer("là")
    file = tmp_path / "talk.json"
    talk.save(file, "smollm2")
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert saved["model"] == "smollm2"
    assert saved["messages"][1] == {"role": "assistant", "content": "là"}
    with pytest.raises(UsageError, match="exists"):
        talk.save(file, "smollm2")
    with pytest.raises(UsageError):
        talk.save(tmp_path / "no" / "such" / "folder", "smollm2")
