"""Anthropic's Messages with the official client: text, reasoning, tools, streams, counting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.server.talking import Talking
from tests.server.test_tools import ANSWERS, ARGUMENTS, WEATHER
from tests.server.test_tools import TIME as NOW
from tests.tokenizer.tool_templates import QWEN3

ASK: Any = [{"role": "user", "content": "How is the weather in Köln?"}]
TOOLS: Any = [
    {
        "name": tool["function"]["name"],
        "input_schema": tool["function"]["parameters"],
        **({"description": d} if (d := tool["function"].get("description")) else {}),
    }
    for tool in (WEATHER, NOW)
]


@pytest.fixture(scope="module", params=[1, 7])
def served(tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[Talking]:
    """It answers with the answer whose number is in the question."""
    marks = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    folder = tmp_path_factory.mktemp("model")
    with Talking(folder, QWEN3, ANSWERS, tokens=marks, burst=request.param, by_text=True) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Talking) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=served.url, api_key=served.token, max_retries=0) as found:
        yield found


def asked(number: int) -> dict[str, Any]:
    talk = [{"role": "user", "content": f"#{number} How is it?"}]
    return {"model": "smollm2", "max_tokens": 400, "messages": talk}


def whole(client: Any, number: int, **more: Any) -> Any:
    return client.messages.create(**{**asked(number), "tools": TOOLS, **more})


def streamed(client: Any, number: int, **more: Any) -> Any:
    with client.messages.stream(**{**asked(number), "tools": TOOLS, **more}) as stream:
        for _ in stream:
            pass
        return stream.get_final_message()


@pytest.mark.parametrize("how", [whole, streamed])
def test_reasoning_text_and_calls_are_blocks(client: Any, how: Any) -> None:
    answer = how(client, 1)
    assert [b.type for b in answer.content] == ["thinking", "text", "tool_use", "tool_use"]
    thought, text, first, second = answer.content
    assert (thought.thinking, text.text) == ("I should look.", "Let me see.")
    assert (first.name, first.input) == ("get_weather", json.loads(ARGUMENTS))
    assert (second.name, second.input) == ("time", {})
    assert answer.stop_reason == "tool_use"
    assert answer.role == "assistant"
    assert answer.usage.output_tokens > 50


@pytest.mark.parametrize("how", [whole, streamed])
def test_a_plain_answer(client: Any, how: Any) -> None:
    answer = how(client, 3)
    assert [(b.type, b.text) for b in answer.content] == [("text", ANSWERS[3])]
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    short = how(client, 3, max_tokens=4)
    assert (short.content[0].text, short.stop_reason) == ("It i"[:4], "max_tokens")
    stopped = how(client, 3, stop_sequences=["sunny"])
    assert (stopped.content[0].text, stopped.stop_reason) == ("It is ", "stop_sequence")
    assert stopped.stop_sequence == "sunny"


def test_streamed_events_are_anthropics(served: Talking) -> None:
    body = {**asked(1), "tools": TOOLS, "stream": True}
    response = served.http.post("/v1/messages", json=body)
    frames = [f.split("\n") for f in response.text.split("\n\n") if f.startswith("event")]
    names = [f[0].removeprefix("event: ") for f in frames]
    data = [json.loads(f[1].removeprefix("data: ")) for f in frames]
    assert [d["type"] for d in data] == names
    assert (names[0], names[-2], names[-1]) == ("message_start", "message_delta", "message_stop")
    starts = [d["index"] for d in data if d["type"] == "content_block_start"]
    stops = [d["index"] for d in data if d["type"] == "content_block_stop"]
    assert starts == stops == [0, 1, 2, 3]


def test_a_conversation_with_tools(served: Talking, client: Any) -> None:
    """Blocks are sent back as they came; the prompt is that of OpenAI's form."""
    first = whole(client, 1)
    call = first.content[2]
    results = [
        {"type": "tool_result", "tool_use_id": b.id, "content": "sunny"}
        for b in first.content
        if b.type == "tool_use"
    ]
    talk = [
        *asked(1)["messages"],
        {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in first.content]},
        {"role": "user", "content": [*results, {"type": "text", "text": "#3 So?"}]},
    ]
    answer = whole(client, 3, messages=talk, system="Be brief.")
    assert answer.content[0].text == ANSWERS[3]
    counted = client.messages.count_tokens(
        model="smollm2", messages=talk, system="Be brief.", tools=TOOLS
    )
    usage = answer.usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
    same = [
        {"role": "system", "content": "Be brief."},
        *asked(1)["messages"],
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "I should look.",
            "tool_calls": [
                {
                    "id": b.id,
                    "type": "function",
                    "function": {"name": b.name, "arguments": json.dumps(b.input)},
                }
                for b in first.content
                if b.type == "tool_use"
            ],
        },
        *({"role": "tool", "tool_call_id": r["tool_use_id"], "content": "sunny"} for r in results),
        {"role": "user", "content": "#3 So?"},
    ]
    tools = [
        {"type": "function", "function": {k: v for k, v in t.items() if k != "input_schema"}}
        for t in TOOLS
    ]
    for ours, theirs in zip(tools, TOOLS, strict=True):
        ours["function"]["parameters"] = theirs["input_schema"]
    prompt = served.http.post("/apply-template", json={"messages": same, "tools": tools}).json()
    ids = served.text.tokenizer.encode(prompt["prompt"], add_special=False)
    assert counted.input_tokens == len(ids)
    assert call.id.startswith("call_")


def test_an_answer_may_be_begun(served: Talking, client: Any) -> None:
    talk = [*asked(3)["messages"], {"role": "assistant", "content": "It"}]
    counted = client.messages.count_tokens(model="smollm2", messages=talk)
    body = {"messages": talk, "continue_final_message": True}
    prompt = served.http.post("/apply-template", json=body).json()["prompt"]
    assert prompt.endswith("assistant\nIt")
    assert counted.input_tokens == len(served.text.tokenizer.encode(prompt, add_special=False))


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages",
        ),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "hiccup"}}}},
            "output_config.format.schema",
        ),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_faults_are_told_by_field(client: Any, more: dict[str, Any], field: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.post("/v1/messages", cast_to=object, body={**asked(3), **more})
    assert any(e["field"].startswith(field) for e in caught.value.body["errors"])


def test_a_wrong_key_is_refused(served: Talking) -> None:
    with (
        anthropic.Anthropic(base_url=served.url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        whole(stranger, 3)
