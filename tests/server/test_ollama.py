"""Ollama's API with the official client: chat, generate, tools, thinking, vectors, refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pydantic
import pytest

from tests.server.fake_engine import DIMENSIONS, Fake
from tests.server.served import Served, wait_for
from tests.server.talking import Talking
from tests.server.test_tools import ANSWERS, ARGUMENTS, TIME, WEATHER
from tests.tokenizer.tool_templates import QWEN3

ollama: Any = pytest.importorskip("ollama", reason="the official client: pip install ollama")

TOOLS = [WEATHER, TIME]
FIM = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "<repo_name>")


@pytest.fixture(scope="module", params=[1, 7])
def served(tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[Talking]:
    """It answers with the answer whose number is in the question."""
    marks = ("<tool_call>", "</tool_call>", "<think>", "</think>", *FIM)
    folder = tmp_path_factory.mktemp("model")
    with Talking(folder, QWEN3, ANSWERS, tokens=marks, burst=request.param, by_text=True) as server:
        yield server


def connected(server: Served) -> Any:
    client = ollama.Client(host=server.url, headers=server.headers)
    server.others.append(client._client)
    return client


@pytest.fixture(scope="module")
def client(served: Talking) -> Any:
    return connected(served)


def asked(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"#{number} How is it?"}]


def whole(client: Any, number: int, **more: Any) -> Any:
    return client.chat(model="smollm2", **{"messages": asked(number), "tools": TOOLS, **more})


def streamed(client: Any, number: int, **more: Any) -> Any:
    """The last line, with the parts of all."""
    given = {"messages": asked(number), "tools": TOOLS, **more}
    lines = list(client.chat(model="smollm2", stream=True, **given))
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    last = lines[-1]
    last.message.content = "".join(line.message.content or "" for line in lines)
    last.message.thinking = "".join(line.message.thinking or "" for line in lines) or None
    last.message.tool_calls = [c for line in lines for c in line.message.tool_calls or ()] or None
    return last


@pytest.mark.parametrize("how", [whole, streamed])
def test_thinking_text_and_calls(client: Any, how: Any) -> None:
    answer = how(client, 1, think=True)
    message = answer.message
    assert (message.role, message.thinking, message.content) == (
        "assistant",
        "I should look.",
        "Let me see.",
    )
    first, second = message.tool_calls
    assert (first.function.name, first.function.arguments) == (
        "get_weather",
        json.loads(ARGUMENTS),
    )
    assert (second.function.name, second.function.arguments) == ("time", {})
    assert (answer.done, answer.done_reason, answer.model) == (True, "stop", "smollm2")
    assert answer.eval_count > 50
    assert answer.prompt_eval_count > 50
    assert answer.total_duration >= 0


@pytest.mark.parametrize("how", [whole, streamed])
def test_a_plain_answer_and_options(client: Any, how: Any) -> None:
    assert how(client, 3).message.content == ANSWERS[3]
    cut = how(client, 3, options={"num_predict": 4, "temperature": 0, "num_ctx": 64})
    assert (cut.message.content, cut.done_reason) == (ANSWERS[3][:4], "length")
    stopped = how(client, 3, options={"stop": ["sunny"], "num_predict": -1, "seed": -1})
    assert (stopped.message.content, stopped.done_reason) == ("It is ", "stop")
    assert how(client, 3, keep_alive="5m", options={"num_gpu": 99}).message.content == ANSWERS[3]


def test_a_call_that_is_cut_says_so(served: Talking) -> None:
    """The arguments of one that the length cut are not made up."""
    body = {"messages": asked(0), "tools": TOOLS, "stream": False, "options": {"num_predict": 25}}
    answer = served.http.post("/api/chat", json=body).json()
    (call,) = answer["message"]["tool_calls"]
    assert call["function"]["arguments"] == {}
    assert answer["done_reason"] == "length"
    assert "were cut" in answer["rbee"]["warnings"][-1]


def test_options_are_the_parameters_of_other_routes(served: Talking) -> None:
    options = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.5,
        "min_p": 0.25,
        "repeat_penalty": 1.5,
        "repeat_last_n": 9,
        "presence_penalty": 1,
        "frequency_penalty": 1,
        "seed": 3,
        "num_predict": 2,
        "stop": "x",
    }
    seen: list[Any] = []
    submit = served.service.worker.submit

    async def watched(requests: Any, **more: Any) -> Any:
        jobs = await submit(requests, **more)
        seen.extend(job.started.sampling.params for job in jobs)
        return jobs

    served.service.worker.submit = watched
    try:
        whole(connected(served), 3, options=options)
        whole(connected(served), 3, options={"repeat_last_n": 0, "repeat_penalty": 1.5})
    finally:
        served.service.worker.submit = submit
    told = {name: getattr(seen[0], own) for name, own in OWN.items()}
    assert told == {**options, "stop": ("x",)}
    assert seen[1].repetition_penalty == 1.0


OWN = {
    **{n: n for n in ("temperature", "top_k", "top_p", "min_p", "repeat_last_n", "seed", "stop")},
    **{n: n for n in ("presence_penalty", "frequency_penalty")},
    "repeat_penalty": "repetition_penalty",
    "num_predict": "max_tokens",
}


def test_a_conversation_with_tools(served: Talking, client: Any) -> None:
    """Messages are sent back as they came; the prompt is that of OpenAI's form."""
    first = whole(client, 1)
    talk = [
        *asked(1),
        first.message,
        {"role": "tool", "tool_name": "time", "content": "noon"},
        {"role": "tool", "content": "sunny"},
        {"role": "user", "content": "#3 So?"},
    ]
    answer = whole(client, 3, messages=talk)
    same = [
        *asked(1),
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "I should look.",
            "tool_calls": [
                {"id": n, "type": "function", "function": {"name": name, "arguments": arguments}}
                for n, name, arguments in (("a", "get_weather", ARGUMENTS), ("b", "time", "{}"))
            ],
        },
        {"role": "tool", "tool_call_id": "b", "name": "time", "content": "noon"},
        {"role": "tool", "tool_call_id": "a", "name": "get_weather", "content": "sunny"},
        {"role": "user", "content": "#3 So?"},
    ]
    prompt = served.http.post("/apply-template", json={"messages": same, "tools": TOOLS}).json()
    ids = served.text.tokenizer.encode(prompt["prompt"], add_special=False)
    assert answer.prompt_eval_count == len(ids)


@pytest.mark.parametrize("stream", [False, True])
def test_generate_is_a_turn_a_raw_prompt_or_a_gap(
    served: Talking, client: Any, stream: bool
) -> None:
    def ask(**given: Any) -> Any:
        told = client.generate(model="smollm2", stream=stream, **given)
        if not stream:
            return told
        lines = list(told)
        lines[-1].response = "".join(line.response for line in lines)
        return lines[-1]

    def tokens(prompt: str, *, opened: bool = False) -> int:
        return len(served.text.tokenizer.encode(prompt, add_special=opened))

    turn = ask(prompt="#2 How?", system="Be brief.")
    assert (turn.response, turn.done_reason) == ("It is sunny.", "stop")
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "#2 How?"}]
    prompt = served.http.post("/apply-template", json={"messages": talk}).json()["prompt"]
    assert turn.prompt_eval_count == tokens(prompt)
    raw = ask(prompt="#3 How?", raw=True)
    assert (raw.response, raw.prompt_eval_count) == (ANSWERS[3], tokens("#3 How?", opened=True))
    gap = ask(prompt="def f(): #3", suffix="return x")
    parts = ("<fim_prefix>", "def f(): #3", "<fim_suffix>", "return x", "<fim_middle>")
    assert gap.response == ANSWERS[3]
    assert gap.prompt_eval_count == tokens("", opened=True) + sum(map(tokens, parts))


def test_a_request_without_a_prompt_loads_the_model_which_is_loaded(client: Any) -> None:
    assert client.generate(model="smollm2").done_reason == "load"
    assert client.chat(model="smollm2", messages=[]).done_reason == "load"


def test_models(served: Talking, client: Any) -> None:
    (listed,) = client.list().models
    assert listed.model == "smollm2"
    (running,) = client.ps().models
    assert running.model == "smollm2"
    assert running.context_length == served.service.worker.model.context
    shown = client.show("smollm2:latest")
    assert (shown.details.format, shown.details.quantization_level) == ("safetensors", "F32")
    assert shown.template == served.text.tokenizer.chat_template
    assert shown.capabilities == ["completion", "tools", "thinking", "insert", "embedding"]
    arch = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{arch}.context_length"] == running.context_length
    assert served.http.get("/api/version").json() == {"version": served.service.worker.version}


def test_vectors() -> None:
    with Served(Fake()) as fake:
        client = connected(fake)
        told = client.embed(model="smollm2", input=["Hum", "Sing"])
        assert [len(v) for v in told.embeddings] == [DIMENSIONS] * 2
        one = client.embed(model="smollm2", input="Hum")
        assert one.embeddings[0] == told.embeddings[0]
        theirs = fake.http.post("/v1/embeddings", json={"input": "Hum"}).json()["data"][0]
        assert one.embeddings[0] == theirs["embedding"]
        assert client.embeddings(model="smollm2", prompt="Hum").embedding == one.embeddings[0]
        assert len(client.embed(model="smollm2", input="Hum", dimensions=2).embeddings[0]) == 2
        assert told.prompt_eval_count == 7


class Shape(pydantic.BaseModel):
    sides: int


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"options": {"temperature": 9}}, "options.temperature"),
        ({"options": {"num_predict": -9}}, "options.num_predict"),
        ({"options": {"num_ctx": 1 << 40}}, "options.num_ctx"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"tempreature": 1}}, "options.tempreature"),
        ({"messages": [{"role": "user", "content": "#3", "images": ["QUJD"]}]}, "images"),
        ({"messages": [{"role": "tool", "content": "#3"}]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "#3"}]}, "messages[0].role"),
        ({"format": {"type": "hiccup"}}, "format"),
        ({"format": {**Shape.model_json_schema(), "uniqueItems": True}}, "format"),
        ({"format": "xml"}, "format"),
        ({"think": "low"}, None),
        ({"think": "huge"}, "think"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0]"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    served: Talking, more: dict[str, Any], field: str | None
) -> None:
    """The error is one line, in Ollama's form."""
    response = served.http.post("/api/chat", json={"messages": asked(3), **more})
    if field is None:
        assert response.status_code == 200
        return
    assert response.status_code == 400, response.text
    told = response.json()
    assert isinstance(told["error"], str)
    assert field in told["error"]
    assert len(told["error"]) <= 300
    assert "\n" not in told["error"]


def test_errors_reach_the_client(served: Talking, client: Any) -> None:
    with pytest.raises(ollama.ResponseError, match=r"options\.top_p"):
        whole(client, 3, options={"top_p": 7})
    with pytest.raises(ollama.ResponseError, match="context"):
        client.generate(model="smollm2", prompt="#3", context=[1, 2])
    with pytest.raises(ollama.ResponseError, match="serves smollm2") as caught:
        client.chat(model="llama3", messages=asked(3))
    assert caught.value.status_code == 404
    for refused in (
        lambda: client.pull("llama3"),
        lambda: client.push("llama3"),
        lambda: client.create("mine", from_="smollm2"),
        lambda: client.copy("smollm2", "mine"),
        lambda: client.delete("smollm2"),
        lambda: list(client.pull("llama3", stream=True)),
    ):
        with pytest.raises(ollama.ResponseError, match="one model, which is chosen when it starts"):
            refused()
    stranger = ollama.Client(host=served.url)
    served.others.append(stranger._client)
    with pytest.raises(ollama.ResponseError, match="needs its token"):
        stranger.list()


def test_leaving_a_stream_cancels_it() -> None:
    with Served(Fake(hold=threading.Event(), hold_at=9)) as slow:
        stream = connected(slow).chat(model="smollm2", messages=asked(3), stream=True)
        next(stream)
        stream.close()
        wait_for(lambda: slow.engine.held == 0)


def test_a_silent_stream_has_blanks_between_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep a connection open, and readers of lines do not see them."""
    monkeypatch.setattr("rbee_worker.server.sse.BEAT_S", 0.05)
    hold = threading.Event()
    with Served(Fake(hold=hold, script=lambda _: list(b"ab"))) as slow:
        text = ""
        with slow.http.stream("POST", "/api/generate", json={"prompt": "x"}) as response:
            assert response.headers["content-type"] == "application/x-ndjson"
            for part in response.iter_text():
                text += part
                if text.endswith(" "):  # it was silent for a while
                    hold.set()
        assert " {" in text
        lines = [json.loads(line) for line in text.splitlines()]
        assert "".join(line["response"] for line in lines) == "ab"
