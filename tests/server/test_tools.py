"""Tools and reasoning over HTTP: the official client, streamed and not, around scripted answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.server.talking import Talking
from tests.tokenizer.tool_templates import QWEN3

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
TIME: Any = {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}}
ASK: Any = [{"role": "user", "content": "How is the weather in Köln?"}]
ARGUMENTS = '{"city": "Köln \\"x\\" 🌦", "days": 3}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
ANSWERS = (
    CALL,
    f"<think>\nI should look.\n</think>\n\nLet me see.\n{CALL}\n"
    '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>',
    "<think>\nEasy.\n</think>\n\nIt is sunny.",
    "It is sunny.\n",
    "<tool_call>\nno call\n</tool_call>",
)


@pytest.fixture(scope="module", params=[1, 7])
def served(tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[Talking]:
    folder = tmp_path_factory.mktemp("model")
    marks = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    with Talking(folder, QWEN3, ANSWERS, tokens=marks, burst=request.param) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Talking) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=served.url + "/v1",
        api_key=served.token,
        max_retries=0,
        _strict_response_validation=True,
    ) as found:
        yield found


def ask(client: openai.OpenAI, seed: int, **more: Any) -> Any:
    more.setdefault("tools", [WEATHER, TIME])
    return client.chat.completions.create(model="smollm2", messages=ASK, seed=seed, **more)


def streamed(client: openai.OpenAI, seed: int, **more: Any) -> Any:
    more.setdefault("tools", [WEATHER, TIME])
    with client.chat.completions.stream(model="smollm2", messages=ASK, seed=seed, **more) as stream:
        for _ in stream:
            pass
        return stream.get_final_completion()


@pytest.mark.parametrize("how", [ask, streamed])
def test_one_call(client: openai.OpenAI, how: Any) -> None:
    choice = how(client, 0).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert call.function.arguments == ARGUMENTS
    assert call.id.startswith("call_")


@pytest.mark.parametrize("how", [ask, streamed])
def test_reasoning_then_text_then_two_calls(client: openai.OpenAI, how: Any) -> None:
    answer = how(client, 1)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    assert choice.message.model_extra["reasoning_content"] == "I should look."
    first, second = choice.message.tool_calls
    assert json.loads(first.function.arguments) == {"city": 'Köln "x" 🌦', "days": 3}
    assert (second.function.name, second.function.arguments) == ("time", "{}")
    assert first.id != second.id


def test_pieces_of_a_call_come_as_openai_sends_them(client: openai.OpenAI) -> None:
    chunks = list(ask(client, 1, stream=True))
    deltas = [c.choices[0].delta for c in chunks]
    calls = [d.tool_calls[0] for d in deltas if d.tool_calls]
    heads = [c for c in calls if c.id is not None]
    assert [(c.index, c.type, c.function.name) for c in heads] == [
        (0, "function", "get_weather"),
        (1, "function", "time"),
    ]
    assert all(c.function.arguments == "" for c in heads)
    rest = [c for c in calls if c.id is None]
    assert all(c.function.name is None and c.function.arguments for c in rest)
    assert [c.index for c in calls] == sorted(c.index for c in calls)
    assert "".join(c.function.arguments for c in rest if c.index == 0) == ARGUMENTS
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_reasoning_is_told_apart_without_tools_too(client: openai.OpenAI) -> None:
    for how in (ask, streamed):
        message = how(client, 2, tools=openai.NOT_GIVEN).choices[0].message
        assert message.content == "It is sunny."
        assert message.model_extra["reasoning_content"] == "Easy."
    whole = ask(client, 2, tools=openai.NOT_GIVEN, extra_body={"reasoning_format": "none"})
    assert whole.choices[0].message.content == ANSWERS[2]


def test_reasoning_tokens_are_counted(client: openai.OpenAI) -> None:
    usage = ask(client, 2).usage
    # two marks, and a token for each character between them
    assert usage.completion_tokens_details.reasoning_tokens == len("\nEasy.\n") + 2


def test_a_plain_answer_stays_as_it_is(client: openai.OpenAI) -> None:
    for how in (ask, streamed):
        choice = how(client, 3).choices[0]
        assert (choice.message.content, choice.finish_reason) == (ANSWERS[3], "stop")
        assert not choice.message.tool_calls


def test_what_only_looks_like_a_call_is_text(client: openai.OpenAI) -> None:
    for how in (ask, streamed):
        choice = how(client, 4).choices[0]
        assert (choice.message.content, choice.finish_reason) == (ANSWERS[4], "stop")


def test_without_tools_a_call_is_text(client: openai.OpenAI) -> None:
    for more in ({"tools": openai.NOT_GIVEN}, {"tool_choice": "none"}):
        choice = ask(client, 0, **more).choices[0]
        assert (choice.message.content, choice.finish_reason) == (CALL, "stop")


def test_a_single_call_ends_the_answer_if_more_are_not_wanted(client: openai.OpenAI) -> None:
    for how in (streamed, ask):
        choice = how(client, 1, parallel_tool_calls=False).choices[0]
        assert [c.function.name for c in choice.message.tool_calls] == ["get_weather"]
        assert choice.finish_reason == "tool_calls"
    assert choice.model_extra["rbee"]["stop"]["origin"] == "parallel_tool_calls"


def test_an_answer_that_is_cut_says_so(client: openai.OpenAI) -> None:
    choice = ask(client, 0, max_tokens=52).choices[0]
    assert choice.finish_reason == "length"
    (call,) = choice.message.tool_calls
    assert ARGUMENTS.startswith(call.function.arguments)


def test_n_answers(client: openai.OpenAI) -> None:
    choices = ask(client, 1, n=2).choices
    assert [len(c.message.tool_calls) for c in choices] == [2, 2]
    assert len({t.id for c in choices for t in c.message.tool_calls}) == 4


def test_a_whole_conversation(served: Talking, client: openai.OpenAI) -> None:
    """Messages are sent back as the client has them; the prompt is transformers' own."""
    from tests.tokenizer.test_chat import hf_with

    asked = ask(client, 0).choices[0].message
    (call,) = asked.tool_calls
    talk = [*ASK, asked, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    answer = client.chat.completions.create(model="smollm2", messages=talk, tools=[WEATHER], seed=3)
    assert answer.choices[0].message.content == ANSWERS[3]
    said = {"id": call.id, "type": "function", "function": {"name": "get_weather"}}
    said["function"]["arguments"] = json.loads(call.function.arguments)
    want = hf_with(QWEN3).apply_chat_template(
        [
            *ASK,
            {"role": "assistant", "content": None, "tool_calls": [said]},
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ],
        tools=[WEATHER],
        tokenize=False,
        add_generation_prompt=True,
    )
    sent = [m if isinstance(m, dict) else m.model_dump(exclude_none=True) for m in talk]
    body = {"messages": sent, "tools": [WEATHER]}
    found = served.http.post("/apply-template", json=body)
    assert found.json() == {"prompt": want}


def test_a_job_has_the_same_parts(served: Talking) -> None:
    body = {"messages": ASK, "tools": [WEATHER, TIME], "seed": 1, "max_tokens": 400}
    found = served.http.post("/v1/infer", json=body).json()
    assert found["text"] == "Let me see."
    assert found["reasoning"] == "I should look."
    assert [c["name"] for c in found["tool_calls"]] == ["get_weather", "time"]
    assert found["tool_calls"][0]["arguments"] == ARGUMENTS
    job = served.http.post("/v1/jobs", json=body).json()["job_id"]
    with served.http.stream("GET", f"/v1/jobs/{job}/stream") as stream:
        lines = [line[6:] for line in stream.iter_lines() if line.startswith("data: {")]
    events = [json.loads(line) for line in lines]
    tokens = [e for e in events if e["type"] == "token"]
    end = events[-1]
    assert "".join(e["t"] for e in tokens) + end["text"] == "Let me see."
    assert "".join(e.get("reasoning", "") for e in tokens) == "I should look."
    pieces = [c for e in (*tokens, end) for c in e.get("calls", ())]
    assert "".join(c.get("arguments", "") for c in pieces if c["index"] == 0) == ARGUMENTS
    ids = [i for e in (*tokens, end) for i in e["ids"]]
    assert [e["i"] for e in tokens] == sorted(e["i"] for e in tokens)
    assert ids == found["token_ids"] or len(ids) == len(found["token_ids"])
    state = served.http.get(f"/v1/jobs/{job}").json()
    assert state["tool_calls"] == [
        {**c, "id": s["id"]} for c, s in zip(found["tool_calls"], state["tool_calls"], strict=True)
    ]
    assert state["reasoning"] == "I should look."
