"""A conversation's turns and commands, without terminal or engine."""

import json
from pathlib import Path

import pytest

from rbee_worker.cli import set_values
from rbee_worker.cli.conversation import Conversation
from rbee_worker.errors import UsageError
from rbee_worker.params import Rules


def number(name: str, text: str | list[str]) -> float:
    assert isinstance(text, str)
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
    talk.defaults = {
        "temperature": {"value": 0.8, "origin": "worker default (chat)"},
        "stop": {"value": (), "origin": "default"},
    }
    before = "temperature = 0.8  (worker default (chat))\nstop        = none  (default)"
    assert talk.set("") == before
    assert talk.set("temperature 0.7") == "temperature = 0.7"
    assert talk.params == {"temperature": 0.7}
    assert talk.set("") == "temperature = 0.7  (set)\nstop        = none  (default)"
    assert talk.set("temperature") == "temperature has its default."
    with pytest.raises(UsageError, match="heat: no such parameter"):
        talk.set("heat")
    assert talk.params == {}
    assert talk.set("") == before


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


def test_load_goes_on_with_what_save_wrote(talk: Conversation, tmp_path: Path) -> None:
    talk.set_system("be brief")
    talk.set("temperature 0.7")
    talk.ask("où?")
    talk.answer("là")
    talk.save(tmp_path / "talk.json", "smollm2")
    other = Conversation(number)
    other.ask("something else")
    assert other.load(tmp_path / "talk.json") == f"Loaded 2 turns from {tmp_path}/talk.json."
    assert other.messages() == talk.messages()
    assert other.params == talk.params
    assert other.last_answer() == "là"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "no saved conversation"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "no saved conversation"),
        ('{"messages": [{"role": "user"}]}', "no saved conversation"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]}',
         "in the middle"),
        ('{"messages": [], "params": {"heat": 9}}', "no such parameter"),
    ],
)  # fmt: skip
def test_load_refuses_anything_else_and_changes_nothing(
    talk: Conversation, tmp_path: Path, content: str, said: str
) -> None:
    talk.ask("one")
    file = tmp_path / "talk.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=said):
        talk.load(file)
    with pytest.raises(UsageError, match="No such file"):
        talk.load(tmp_path / "none.json")
    assert [m["content"] for m in talk.messages()] == ["one"]


def test_values_of_every_kind_survive_save_and_load(tmp_path: Path) -> None:
    rules = Rules(context=512, vocab_size=64)
    talk = Conversation(lambda name, text: set_values.read(name, text, rules))
    for line in ("stop a,b", "stop_token_ids 3,4", "logit_bias 5=-1.5", "ignore_eos yes", "seed 7"):
        talk.set(line)
    talk.params["stop"] = ["a,b", "c"]
    talk.save(tmp_path / "talk.json", "m")
    again = Conversation(lambda name, text: set_values.read(name, text, rules))
    again.load(tmp_path / "talk.json")
    assert again.params == talk.params


def test_every_name_that_can_be_set_has_a_default_to_show() -> None:
    shown = set_values.defaults(Rules(context=512, vocab_size=64, worker={"top_k": 9}))
    assert [*shown] == set_values.settable()
    assert shown["top_k"] == {"value": 9, "origin": "worker option"}
    length = {"value": "the rest of the context", "origin": "worker default (chat)"}
    assert shown["max_tokens"] == length


PNG = "data:image/png;base64,iVBORw0KGgo="
PART = {"type": "image_url", "image_url": {"url": PNG, "detail": "auto"}}
SHOWN = [PART, {"type": "text", "text": "What is it?"}]


def test_a_picture_goes_with_the_next_question_only(talk: Conversation) -> None:
    assert talk.attach(PART, "bee.png") == "bee.png goes with the next question (1 so far)."
    talk.ask("What is it?")
    talk.answer("A bee.")
    talk.ask("Sure?")
    assert [turn["content"] for turn in talk.messages()] == [SHOWN, "A bee.", "Sure?"]


def test_a_question_that_is_taken_back_keeps_its_picture(talk: Conversation) -> None:
    talk.attach(PART, "bee.png")
    talk.ask("What is it?")
    talk.answer("")
    assert (talk.turns, talk.attached) == ([], [PART])
    talk.ask("What is it?")
    talk.answer("A wasp.")
    assert talk.retry() == "What is it?"
    assert (talk.turns, talk.attached) == ([], [PART])
    talk.reset()
    assert talk.attached == []


def test_pictures_are_saved_and_loaded(talk: Conversation, tmp_path: Path) -> None:
    talk.attach(PART, "bee.png")
    talk.ask("What is it?")
    talk.answer("A bee.")
    talk.save(tmp_path / "a.json", "x")
    other = Conversation(number)
    other.load(tmp_path / "a.json")
    assert other.turns == talk.turns
    wrong = {"messages": [{"role": "assistant", "content": SHOWN}]}
    (tmp_path / "b.json").write_text(json.dumps(wrong))
    with pytest.raises(UsageError, match="not the user's"):
        other.load(tmp_path / "b.json")
