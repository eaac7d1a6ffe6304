"""OpenAI's Responses with the official client: items, streams, kept responses, refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from rbee_worker.server.responses.items import hidden
from tests.server.fake_engine import Fake
from tests.server.served import Served, wait_for
from tests.server.talking import Talking
from tests.server.test_tools import ANSWERS, ARGUMENTS
from tests.tokenizer.tool_templates import QWEN3

TOOLS: Any = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": False,
    },
    {"type": "function", "name": "time", "parameters": {"type": "object"}, "strict": None},
]
ORDER = {  # events of an item, by its type, between those that add and end it
    "reasoning": [
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
    ],
    "message": [
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
    ],
    "function_call": [
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
    ],
}


@pytest.fixture(scope="module", params=[1, 7])
def served(tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[Talking]:
    """It answers with the answer whose number is in the question."""
    marks = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    folder = tmp_path_factory.mktemp("model")
    with Talking(folder, QWEN3, ANSWERS, tokens=marks, burst=request.param, by_text=True) as server:
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


def whole(client: openai.OpenAI, number: int, **more: Any) -> Any:
    asked = {"model": "smollm2", "input": f"#{number} How is it?", "tools": TOOLS}
    return client.responses.create(**{**asked, **more})


def streamed(client: openai.OpenAI, number: int, **more: Any) -> Any:
    asked = {"model": "smollm2", "input": f"#{number} How is it?", "tools": TOOLS}
    with client.responses.stream(**{**asked, **more}) as stream:
        for _ in stream:
            pass
        return stream.get_final_response()


@pytest.mark.parametrize("how", [whole, streamed])
def test_reasoning_text_and_calls_are_items(client: openai.OpenAI, how: Any) -> None:
    answer = how(client, 1)
    assert answer.status == "completed"
    thought, text, first, second = answer.output
    assert [i.type for i in answer.output] == [
        *("reasoning", "message", "function_call", "function_call"),
    ]
    assert (thought.content[0].text, thought.summary) == ("I should look.", [])
    assert answer.output_text == text.content[0].text == "Let me see."
    assert (first.name, first.arguments) == ("get_weather", ARGUMENTS)
    assert (second.name, json.loads(second.arguments)) == ("time", {})
    assert first.call_id.startswith("call_")
    assert first.id.startswith("fc_")
    assert len({i.id for i in answer.output}) == 4
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens > 3
    assert [t.name for t in answer.tools] == ["get_weather", "time"]
    assert answer.model == "smollm2"


def test_streamed_events_have_openais_names_and_order(
    served: Talking, client: openai.OpenAI
) -> None:
    body = {"input": "#1 How?", "tools": TOOLS, "stream": True, "store": False}
    text = served.http.post("/v1/responses", json=body).text
    frames = [frame.split("\n") for frame in text.split("\n\n") if frame.startswith("event")]
    names = [frame[0].removeprefix("event: ") for frame in frames]
    data = [json.loads(frame[1].removeprefix("data: ")) for frame in frames]
    assert [d["type"] for d in data] == names
    assert [d["sequence_number"] for d in data] == list(range(len(data)))
    known: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    for d in data:
        known.validate_python(d)
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-1] == "response.completed"
    items = data[-1]["response"]["output"]
    for index, item in enumerate(items):
        own = [d for d in data if d.get("output_index") == index]
        kinds = [d["type"] for d in own]
        assert (kinds[0], kinds[-1]) == (
            "response.output_item.added",
            "response.output_item.done",
        )
        assert own[0]["item"]["status"] == "in_progress"
        assert own[-1]["item"] == item
        assert list(dict.fromkeys(kinds[1:-1])) == [
            kind for kind in ORDER[item["type"]] if kind in kinds
        ]
        deltas = "".join(d["delta"] for d in own if d["type"].endswith(".delta"))
        done = next(d for d in own if d["type"].endswith((".text.done", "_text.done", "ts.done")))
        assert deltas == done.get("text", done.get("arguments"))
    indices = [d["output_index"] for d in data if "output_index" in d]
    assert indices == sorted(indices)  # one item after another


@pytest.mark.parametrize("how", [whole, streamed])
def test_a_plain_answer_and_one_that_is_cut(client: openai.OpenAI, how: Any) -> None:
    answer = how(client, 3, metadata={"for": "Anna"}, instructions="Be brief.")
    assert answer.output_text == ANSWERS[3]
    assert (answer.status, answer.incomplete_details) == ("completed", None)
    assert answer.metadata == {"for": "Anna"}
    assert answer.instructions == "Be brief."
    if how is streamed:  # the client's helper wants a complete answer
        events = whole(client, 3, max_output_tokens=4, stream=True)
        last = list(events)[-1]
        assert last.type == "response.incomplete"
        cut = last.response
    else:
        cut = how(client, 3, max_output_tokens=4)
    assert cut.output_text == ANSWERS[3][:4]
    assert cut.status == "incomplete"
    assert cut.incomplete_details.reason == "max_output_tokens"
    assert cut.output[0].status == "incomplete"
    stopped = how(client, 3, extra_body={"stop": ["sunny"]})
    assert (stopped.output_text, stopped.status) == ("It is ", "completed")


def test_a_conversation_goes_on_by_id_and_by_its_items(
    served: Talking, client: openai.OpenAI
) -> None:
    """Both give the prompt that chat completions give."""
    first = whole(client, 1)
    given = [
        {"type": "function_call_output", "call_id": i.call_id, "output": "sunny"}
        for i in first.output
        if i.type == "function_call"
    ]
    more: list[Any] = [*given, {"role": "user", "content": "#3 So?"}]
    by_id = whole(client, 3, input=more, previous_response_id=first.id)
    assert by_id.output_text == ANSWERS[3]
    assert by_id.previous_response_id == first.id
    items = [i.model_dump(exclude_none=True) for i in first.output]
    asked: list[Any] = [{"role": "user", "content": "#1 How is it?"}]
    by_items = whole(client, 3, input=[*asked, *items, *more])
    assert by_items.usage.input_tokens == by_id.usage.input_tokens
    references = [{"type": "item_reference", "id": i.id} for i in first.output]
    by_reference = whole(client, 3, input=[*asked, *references, *more])
    assert by_reference.usage.input_tokens == by_id.usage.input_tokens
    talk = [
        *asked,
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "I should look.",
            "tool_calls": [
                {
                    "id": i.call_id,
                    "type": "function",
                    "function": {"name": i.name, "arguments": i.arguments},
                }
                for i in first.output
                if i.type == "function_call"
            ],
        },
        *({"role": "tool", "tool_call_id": g["call_id"], "content": "sunny"} for g in given),
        {"role": "user", "content": "#3 So?"},
    ]
    tools = [
        {
            "type": "function",
            "function": {k: v for k, v in t.items() if k not in ("type", "strict")},
        }
        for t in TOOLS
    ]
    prompt = served.http.post("/apply-template", json={"messages": talk, "tools": tools}).json()
    ids = served.text.tokenizer.encode(prompt["prompt"], add_special=False)
    assert by_id.usage.input_tokens == len(ids)
    counted = client.responses.input_tokens.count(
        model="smollm2", input=more, previous_response_id=first.id, tools=TOOLS
    )
    assert counted.input_tokens == len(ids)


def test_instructions_are_not_carried_over(client: openai.OpenAI) -> None:
    first = whole(client, 3, instructions="Be brief. " * 20)
    second = whole(client, 3, previous_response_id=first.id)
    plain = whole(client, 3, previous_response_id=whole(client, 3).id)
    assert second.usage.input_tokens == plain.usage.input_tokens


def test_reasoning_can_be_sent_back_sealed(client: openai.OpenAI) -> None:
    answer = whole(client, 2, include=["reasoning.encrypted_content"], store=False)
    thought = answer.output[0]
    assert thought.encrypted_content == hidden("Easy.")
    seals = {"type": "reasoning", "id": "x", "summary": []}

    def tokens(item: dict[str, Any]) -> int:
        asked = [{"role": "user", "content": "#3"}, item, {"role": "assistant", "content": "Hm."}]
        count: int = client.responses.input_tokens.count(input=asked).input_tokens  # type: ignore[arg-type]
        return count

    spoken = tokens({**seals, "content": [{"type": "reasoning_text", "text": "Easy."}]})
    assert tokens({**seals, "encrypted_content": thought.encrypted_content}) == spoken
    with pytest.raises(openai.BadRequestError, match="encrypted_content"):
        tokens({**seals, "encrypted_content": "gAAAA"})


def test_a_kept_response_is_found_listed_and_deleted(client: openai.OpenAI) -> None:
    answer = whole(client, 1)
    found = client.responses.retrieve(answer.id)
    assert found.model_dump() == answer.model_dump()
    items = client.responses.input_items.list(answer.id)
    assert [i.type for i in items.data] == ["message"]
    assert items.data[0].content[0].text == "#1 How is it?"  # type: ignore[union-attr]
    client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.retrieve(answer.id)
    assert "store" in str(caught.value)
    with pytest.raises(openai.NotFoundError) as caught:
        whole(client, 3, previous_response_id=answer.id)
    assert caught.value.param == "previous_response_id"
    unkept = whole(client, 3, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_log_probabilities(served: Served) -> None:
    with (
        Served() as plain,
        openai.OpenAI(
            base_url=plain.url + "/v1", api_key=plain.token, _strict_response_validation=True
        ) as client,
    ):
        asked: Any = {"input": "Hum", "max_output_tokens": 3, "top_logprobs": 2, "store": False}
        part: Any = client.responses.create(**asked).output[0]
        rows = part.content[0].logprobs
        assert len(rows) == 3
        assert all(len(row.top_logprobs) == 2 and row.logprob == -0.5 for row in rows)
        assert bytes(b for row in rows for b in row.bytes).decode() == part.content[0].text
        deltas = [
            row
            for event in client.responses.create(**asked, stream=True)
            if event.type == "response.output_text.delta"
            for row in event.logprobs
        ]
        assert [d.token for d in deltas] == [r.token for r in rows]


def test_background_cancel_and_the_store_is_bounded() -> None:
    hold: Any = None
    import threading

    hold = threading.Event()
    with (
        Served(Fake(hold=hold), keep_jobs=2) as slow,
        openai.OpenAI(
            base_url=slow.url + "/v1", api_key=slow.token, _strict_response_validation=True
        ) as client,
    ):
        begun = client.responses.create(input="Hum", background=True)
        assert begun.status == "in_progress"
        assert client.responses.retrieve(begun.id).status == "in_progress"
        with pytest.raises(openai.BadRequestError, match="in progress"):
            client.responses.create(input="So?", previous_response_id=begun.id)
        hold.set()
        wait_for(lambda: client.responses.retrieve(begun.id).status == "completed")
        hold.clear()
        second = client.responses.create(input="Hum", background=True)
        hold.set()
        cancelled = client.responses.cancel(second.id)
        assert cancelled.status in ("cancelled", "completed")
        assert client.responses.cancel(second.id).status == cancelled.status
        last = [client.responses.create(input=f"{n}", max_output_tokens=2) for n in range(3)]
        with pytest.raises(openai.BadRequestError, match="background"):
            client.responses.cancel(last[2].id)
        kept = [r.id for r in last if slow.http.get(f"/v1/responses/{r.id}").status_code == 200]
        assert kept == [last[1].id, last[2].id]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"temperature": 9}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 1 << 30}, "max_output_tokens"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [7]}, "input[0]"),
        ({"input": [{"role": "user", "content": 7}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": "x", "odd": 1}]}, "input[0].odd"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_x"}]}, "input[0].id"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools[2]"),
        ({"tool_choice": {"type": "function", "name": "no"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "schema": 7, "name": "x"}}}, "text.format"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"background": True, "store": False}, "background"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"nonsense": 1}, "nonsense"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    client: openai.OpenAI, more: dict[str, Any], field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/responses", cast_to=object, body={"input": "#3", "tools": TOOLS, **more})
    body: Any = caught.value.body
    assert body["type"] == "invalid_request_error"
    fields = [e["field"] for e in body["errors"]]
    assert any(f.startswith(field) for f in fields), fields
    assert len(body["message"]) <= 300
    assert "\n" not in body["message"]


def test_leaving_cancels() -> None:
    with Served(Fake(hold=threading.Event(), hold_at=9)) as slow:
        body = {"input": "Hum", "stream": True}
        with slow.http.stream("POST", "/v1/responses", json=body) as response:
            next(response.iter_lines())
        wait_for(lambda: slow.engine.held == 0)
