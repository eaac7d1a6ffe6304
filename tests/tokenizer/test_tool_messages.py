"""Tools, calls and the answers of tools reach the prompt as transformers renders them, in the form
that each template reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rbee_worker.errors import InvalidRequest
from rbee_worker.tokenizer.chat import ChatRenderer
from rbee_worker.tokenizer.tool_prompt import in_words
from tests.answer.samples import CITY, TOOLS
from tests.tokenizer.channels import GEMMA4, HARMONY
from tests.tokenizer.test_chat import hf_with
from tests.tokenizer.tool_templates import HERMES, OPENED, QWEN3, TEXT_ARGUMENTS, framed

TEMPLATES = {
    "hermes": HERMES,
    "qwen3": QWEN3,
    "opened": OPENED,
    "text arguments": TEXT_ARGUMENTS,
    "harmony": HARMONY,
    "gemma4": GEMMA4,
}
ASK: dict[str, Any] = {"role": "user", "content": "How is it?"}
TOLD: dict[str, Any] = {
    "role": "tool",
    "tool_call_id": "abcdefghi",
    "name": "get_weather",
    "content": "sunny",
}


def called(arguments: Any, content: str | None = None) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": "abcdefghi", "type": "function", "function": function}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def theirs(template: str, messages: list[dict[str, Any]], tools: Any) -> str | None:
    try:
        prompt = hf_with(template).apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=True
        )
    except Exception:
        return None
    assert isinstance(prompt, str)
    return prompt


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tools", [TOOLS, None], ids=["tools", "none"])
def test_a_call_and_its_answer_are_rendered_as_transformers_does(name: str, tools: Any) -> None:
    """Given as clients send them, rendered as transformers does for the form that the template
    wants: what it is given for another is wrong, or nothing."""
    template = TEMPLATES[name]
    text = json.dumps(CITY, ensure_ascii=False)
    want = "text" if name == "text arguments" else "object"
    arguments = text if want == "text" else CITY
    content = "" if name in ("harmony", "gemma4") else None
    expected = theirs(template, [ASK, called(arguments, content), TOLD, ASK], tools)
    assert expected is not None
    with ChatRenderer(template, bos_token="<s>", eos_token="</s>") as renderer:
        for given in (called(text), called(text, ""), called(CITY), called(CITY, "")):
            messages = [ASK, given, TOLD, ASK]
            assert renderer.render(messages, tools=tools) == expected
            assert renderer.dropped(messages) == ()
            assert renderer.unseen(messages) == ()


def test_text_beside_a_call_stays() -> None:
    expected = theirs(HERMES, [ASK, called(CITY, "Well."), TOLD], TOOLS)
    with ChatRenderer(HERMES) as renderer:
        assert renderer.render([ASK, called(json.dumps(CITY), "Well."), TOLD], tools=TOOLS) == (
            expected
        )


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_the_name_that_the_template_reads(name: str) -> None:
    template = framed("Tools:", "").replace("m.reasoning_content", f"m.{name}")
    messages = [ASK, {"role": "assistant", "content": "x", "reasoning_content": "Hm."}, ASK]
    expected = theirs(
        template, [ASK, {"role": "assistant", "content": "x", name: "Hm."}, ASK], None
    )
    assert expected is not None
    assert "Hm." in expected
    with ChatRenderer(template) as renderer:
        assert renderer.render(messages) == expected
        assert renderer.dropped(messages) == ()


def test_what_a_template_leaves_out_is_told() -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    messages = [ASK, {**called("{}", "x"), "reasoning_content": "Hm."}, ASK]
    with ChatRenderer(template) as renderer:
        assert "None" not in renderer.render([ASK, called("{}"), TOLD])
        renderer.render(messages)
        assert renderer.dropped(messages) == ("tool calls", "the reasoning of earlier answers")


@pytest.mark.parametrize(
    ("calls", "field"),
    [
        ("x", "messages[1].tool_calls"),
        ([5], "messages[1].tool_calls[0].function"),
        ([{"function": {"arguments": "{}"}}], "messages[1].tool_calls[0].function"),
        (
            [{"function": {"name": "f", "arguments": "{"}}],
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            [{"function": {"name": "f", "arguments": "[1]"}}],
            "messages[1].tool_calls[0].function.arguments",
        ),
    ],
)
def test_calls_that_cannot_be_rendered_are_refused(calls: Any, field: str) -> None:
    with ChatRenderer(HERMES) as renderer, pytest.raises(InvalidRequest) as caught:
        renderer.render([ASK, {"role": "assistant", "content": None, "tool_calls": calls}])
    assert [e.field for e in caught.value.errors] == [field]


def test_a_prompt_in_words_has_everything_as_text() -> None:
    """For a template that knows no tools: it gets only roles and texts."""
    text = json.dumps(CITY, ensure_ascii=False)
    system = {"role": "system", "content": "Be brief."}
    talk = [system, ASK, called(text, "Well."), TOLD, {**TOLD, "content": "warm"}, ASK]
    told = in_words(talk, TOOLS)
    assert [m["role"] for m in told] == ["system", "user", "assistant", "user", "user"]
    assert all(set(m) == {"role", "content"} for m in told)
    head = told[0]["content"]
    assert head.startswith("Be brief.\n\n")
    assert [json.loads(line) for line in head.splitlines() if line.startswith('{"type"')] == TOOLS
    call = told[2]["content"]
    assert call.startswith("Well.\n<tool_call>\n")
    inner = call.partition("<tool_call>\n")[2].partition("\n</tool_call>")[0]
    assert json.loads(inner) == {"name": "get_weather", "arguments": CITY}
    assert told[3]["content"].split("\n") == [
        *("<tool_response>", "sunny", "</tool_response>"),
        *("<tool_response>", "warm", "</tool_response>"),
    ]
    assert in_words([ASK], ()) == (ASK,)
    assert in_words([ASK], TOOLS)[0]["role"] == "system"
