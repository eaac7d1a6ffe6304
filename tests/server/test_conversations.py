"""Conversations as clients keep them: whole messages sent back, the last one continued, and prompts
that were rendered elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.session.text import open_text
from rbee_worker.tokenizer.chat import ChatRenderer
from tests import tiny
from tests.server.fake_engine import Fake
from tests.server.scripted import scripted_start
from tests.server.served import Served
from tests.tokenizer.templates import CHATML

ASK = {"role": "user", "content": "Hum"}


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url + "/v1", api_key=served.token, max_retries=0) as found:
        yield found


def turns(served: Served) -> list[tuple[str, Any]]:
    """What the engine was asked to answer last."""
    request = served.engine.seen[-1][0]
    return [(m["role"], m["content"]) for m in request.messages]


def test_the_official_client_may_send_back_the_message_that_it_was_given(
    served: Served, client: openai.OpenAI
) -> None:
    messages: list[Any] = [ASK]
    for _ in range(3):
        answer = client.chat.completions.create(model="smollm2", messages=messages, max_tokens=4)
        messages += [answer.choices[0].message, ASK]
    whole = client.chat.completions.create(model="smollm2", messages=messages, max_tokens=4)
    assert [role for role, _ in turns(served)] == ["user", "assistant"] * 3 + ["user"]
    dumped = [m if isinstance(m, dict) else m.model_dump() for m in messages]
    again = client.chat.completions.create(model="smollm2", messages=dumped, max_tokens=4)
    assert again.choices[0].message == whole.choices[0].message
    with client.chat.completions.stream(model="smollm2", messages=messages) as stream:
        final = stream.get_final_completion().choices[0].message
    client.chat.completions.create(
        model="smollm2", messages=[*messages, final, ASK, final.model_dump()], max_tokens=1
    )


@pytest.mark.parametrize("nothing", [None, "", [], {}])
def test_fields_of_what_is_not_implemented_may_be_null_or_empty(
    served: Served, nothing: Any
) -> None:
    names = "function_call audio refusal annotations parsed"
    extra = dict.fromkeys(names.split(), nothing)
    messages = [ASK, {"role": "assistant", "content": None, "name": None, **extra}, ASK]
    body = {"messages": messages, "max_tokens": 1}
    for path in ("/v1/chat/completions", "/v1/infer", "/v1/jobs", "/apply-template"):
        asked = {"messages": messages} if path == "/apply-template" else body
        assert served.http.post(path, json=asked).status_code == 200, path
    for name in extra:
        messages = [ASK, {"role": "assistant", "content": "x", name: "something"}]
        response = served.http.post("/v1/chat/completions", json={"messages": messages})
        assert [e["field"] for e in response.json()["errors"]] == [f"messages[1].{name}"]


def test_what_an_answer_did_not_have_may_be_null_or_empty(served: Served) -> None:
    names = ("tool_calls", "tool_call_id", "reasoning", "reasoning_content")
    for extra in (dict.fromkeys(names), {"tool_calls": [], "reasoning": "", "tool_call_id": ""}):
        messages = [ASK, {"role": "assistant", "content": "x", **extra}, ASK]
        body = {"messages": messages, "max_tokens": 1}
        assert served.http.post("/v1/chat/completions", json=body).status_code == 200


CALLS = [{"id": "a", "type": "function", "function": {"name": "hum", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("message", "field", "words"),
    [
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id", "required"),
        (
            {"role": "user", "content": "x", "tool_calls": CALLS},
            "messages[0].tool_calls",
            "only assistant",
        ),
        (
            {"role": "user", "content": "x", "reasoning_content": "x"},
            "messages[0].reasoning_content",
            "only assistant",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {"nam": "x"}}]},
            "messages[0].tool_calls[0].function.nam",
            "did you mean name?",
        ),
        ({"role": "user", "content": None}, "messages[0].content", "required"),
        ({"role": "user"}, "messages[0].content", "required"),
        ({"role": "user", "contnet": "x"}, "messages[0].contnet", "did you mean content?"),
        ({"role": "user", "content": 5}, "messages[0].content", "expected"),
        (
            {"role": "user", "content": [{"type": "text", "txt": "x"}]},
            "messages[0].content[0].txt",
            "did you mean text?",
        ),
        ({"role": "wizard", "content": "x"}, "messages[0].role", "allowed"),
    ],
)
def test_faults_of_messages_name_the_place_and_the_nearest_field(
    served: Served, message: dict[str, Any], field: str, words: str
) -> None:
    response = served.http.post("/v1/chat/completions", json={"messages": [message]})
    [error] = response.json()["errors"]
    assert error["field"] == field
    assert words in error["message"]


@pytest.mark.parametrize(
    ("path", "key", "near"),
    [
        ("/tokenize", "add_specials", "add_special"),
        ("/detokenize", "token", "tokens"),
        ("/apply-template", "template_arg", "template_args"),
        ("/v1/jobs", "temprature", "temperature"),
        ("/v1/chat/completions", "max_token", "max_tokens"),
    ],
)
def test_unknown_fields_are_told_with_the_nearest(
    served: Served, path: str, key: str, near: str
) -> None:
    response = served.http.post(path, json={key: 1})
    told = {e["field"]: e["message"] for e in response.json()["errors"]}
    assert f"did you mean {near}?" in told[key]


def test_paths_are_told_with_the_nearest(served: Served) -> None:
    response = served.http.get("/v1/chat/completion")
    assert response.status_code == 404
    assert "did you mean /v1/chat/completions?" in response.json()["error"]["message"]
    long = served.http.get("/" + "x" * 20_000)
    assert len(long.json()["error"]["message"]) <= 300


def test_the_last_message_is_continued_or_opened_as_asked(served: Served) -> None:
    talk = {"messages": [ASK, {"role": "assistant", "content": "Hm, "}]}
    closed = "<|im_start|>user\nHum<|im_end|>\n<|im_start|>assistant\nHm, <|im_end|>\n"
    for more, text in (
        ({}, closed + "<|im_start|>assistant\n"),
        ({"add_generation_prompt": True}, closed + "<|im_start|>assistant\n"),
        ({"add_generation_prompt": False}, closed),
        ({"continue_final_message": True}, closed.removesuffix("<|im_end|>\n")),
        (
            {"continue_final_message": True, "add_generation_prompt": False},
            closed.removesuffix("<|im_end|>\n"),
        ),
    ):
        assert served.http.post("/apply-template", json={**talk, **more}).json()["prompt"] == text
        body = {**talk, **more, "max_tokens": 1}
        for path in ("/v1/chat/completions", "/v1/infer"):
            assert served.http.post(path, json=body).status_code == 200
            assert bytes(served.engine.seen[-1][2]).decode() == text
    both = {**talk, "continue_final_message": True, "add_generation_prompt": True}
    for path in ("/v1/chat/completions", "/v1/infer", "/apply-template"):
        response = served.http.post(path, json=both)
        assert [e["field"] for e in response.json()["errors"]] == ["continue_final_message"]


# ---- opening tokens


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real tokenizer that puts its opening token before every text."""
    path = tmp_path_factory.mktemp("tiny")
    tiny.write_safetensors(path)
    text = open_text(open_checkpoint(str(path)))
    template = "{{ bos_token }}" + CHATML
    text.tokenizer.chat_templates = {"default": template}
    text = replace(text, chat=ChatRenderer(template, bos_token=tiny.BOS))
    start = scripted_start(lambda m: [5], lambda: text)
    with Served(token="", start=start, max_prompt_ratio=1) as server:
        yield server


def prompt_tokens(served: Served, **body: Any) -> tuple[int, list[str]]:
    """(tokens of the prompt, warnings)"""
    answer = served.http.post("/v1/completions", json={"max_tokens": 1, **body}).json()
    return answer["usage"]["prompt_tokens"], answer["choices"][0]["rbee"].get("warnings", [])


def test_a_prompt_that_begins_with_the_opening_token_gets_no_second_one(opened: Served) -> None:
    plain, silent = prompt_tokens(opened, prompt="one two")
    assert silent == []
    bos = tiny.BOS
    once, told = prompt_tokens(opened, prompt=f"{bos}one two")
    assert once == plain
    assert len(told) == 1
    assert bos in told[0]
    assert "add_special_tokens" in told[0]
    twice, _ = prompt_tokens(opened, prompt=f"{bos}one two", add_special_tokens=True)
    assert twice == plain + 1
    bare, _ = prompt_tokens(opened, prompt=f"{bos}one two", add_special_tokens=False)
    assert bare == plain
    none, _ = prompt_tokens(opened, prompt="one two", add_special_tokens=False)
    assert none == plain - 1


def test_tokenize_says_what_a_prompt_becomes(opened: Served) -> None:
    def tokens(**body: Any) -> dict[str, Any]:
        found: dict[str, Any] = opened.http.post("/tokenize", json=body).json()
        return found

    bos = tiny.BOS
    plain = tokens(text="one two")
    told = tokens(text=f"{bos}one two")
    assert told["tokens"] == plain["tokens"]
    assert bos in told["warnings"][0]
    assert "warnings" not in plain
    assert tokens(text=f"{bos}one two", add_special=True)["count"] == plain["count"] + 1
    assert tokens(text="one two", add_special=False)["tokens"] == plain["tokens"][1:]


def test_a_rendered_conversation_may_be_sent_as_a_prompt(opened: Served) -> None:
    """What /apply-template gives is worth the same tokens as the conversation itself."""
    talk = {"messages": [ASK], "max_tokens": 1}
    chat = opened.http.post("/v1/chat/completions", json=talk).json()["usage"]["prompt_tokens"]
    prompt = opened.http.post("/apply-template", json={"messages": [ASK]}).json()["prompt"]
    assert prompt.startswith(tiny.BOS)
    assert prompt_tokens(opened, prompt=prompt)[0] == chat
    more = {**talk, "add_special_tokens": True}
    told = opened.http.post("/v1/chat/completions", json=more).json()["usage"]["prompt_tokens"]
    assert told == chat + 1


# ---- fan-out


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": "x", "n": 7}, "n"),
        ({"prompt": ["x", "y"], "n": 4}, "n"),
        ({"prompt": ["x"] * 7}, "prompt"),
    ],
)
def test_more_answers_than_can_ever_wait_are_a_400(body: dict[str, Any], field: str) -> None:
    with Served(Fake(slots=4), max_seqs=4, max_queue=2) as served:
        response = served.http.post("/v1/completions", json=body)
        assert response.status_code == 400
        [error] = response.json()["errors"]
        assert error["field"] == field
        assert " 6 at a time" in error["message"]
        assert served.engine.submitted == 0
        assert served.http.post("/v1/completions", json={"prompt": ["x"] * 6}).status_code == 200


def test_a_prompt_is_prepared_once_however_many_answers(served: Served) -> None:
    served.engine.seen.clear()
    body = {"messages": [ASK], "n": 3, "max_tokens": 2, "echo": True}
    choices = served.http.post("/v1/chat/completions", json=body).json()["choices"]
    asked = [request for request, _, _ in served.engine.seen]
    assert [r.choice for r in asked] == [0, 1, 2]
    assert asked[0].messages is not None
    assert all(r.token_ids is not None and r.messages is None for r in asked[1:])
    assert len({tuple(ids) for _, _, ids in served.engine.seen}) == 1
    rendered = bytes(served.engine.seen[0][2]).decode()
    assert all(c["message"]["content"].startswith(rendered) for c in choices)


def test_cors_takes_any_header() -> None:
    with Served(cors_origin="http://app.example") as served:
        asked = {
            "Origin": "http://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os,x-my-own",
        }
        preflight = served.http.options("/v1/chat/completions", headers=asked)
        assert preflight.status_code == 200
        allowed = preflight.headers["access-control-allow-headers"]
        assert {"x-stainless-os", "x-my-own"} <= {h.strip() for h in allowed.split(",")}
        other = served.http.options("/info", headers={**asked, "Origin": "http://b.example"})
        assert other.status_code == 400
        assert other.json()["error"]["code"] == "cors_refused"
        assert "Fix: " in other.json()["error"]["message"]
        assert "access-control-allow-origin" not in other.headers
