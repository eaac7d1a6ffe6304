"""Nothing is accepted and dropped: every parameter of every route has an effect that can be seen in
the answer or in what the engine is asked for, or is refused by name, or is listed as inert."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from rbee_worker.checkpoint.sentence import Sentence
from rbee_worker.params import PARAMETERS, names
from rbee_worker.server.llamacpp.settings import OF, OFF
from rbee_worker.server.operation import Operation
from rbee_worker.server.routes import OPERATIONS
from rbee_worker.types import Request, Resolved
from tests.server.fake_engine import ByteTokenizer, ChatMl, Fake, FakeEngineClient, starter
from tests.server.fake_speech import SPEECH, speaking_fake
from tests.server.reading import DONE, events
from tests.server.served import Served

TALK = [{"role": "user", "content": "Hum"}, {"role": "assistant", "content": "Hm"}]
BASE: dict[str, dict[str, Any]] = {
    "/v1/jobs": {"messages": TALK, "seed": 1},
    "/v1/inference": {"messages": TALK, "seed": 1},
    "/v1/infer": {"messages": TALK, "seed": 1},
    "/v1/completions": {"prompt": "<s>Hum", "seed": 1},
    "/v1/chat/completions": {"messages": TALK, "seed": 1},
    "/v1/messages": {"messages": TALK[:1], "max_tokens": 30, "seed": 1},
    "/v1/messages/count_tokens": {"messages": TALK[:1]},
    "/v1/responses": {"input": "Hum", "seed": 1},
    "/v1/responses/input_tokens": {"input": [{"role": "user", "content": "Hum"}]},
    "/api/chat": {"messages": TALK[:1], "options": {"seed": 1}},
    "/api/generate": {"prompt": "Hum", "options": {"seed": 1}},
    "/api/embed": {"input": "Hum"},
    "/api/embeddings": {"prompt": "Hum"},
    "/api/show": {},
    **{path: {} for path in ("/api/pull", "/api/push", "/api/create", "/api/copy")},
    "/api/blobs/{digest}": {},
    "/completion": {"prompt": "<s>Hum", "seed": 1},
    "/infill": {"input_prefix": "Hum", "input_suffix": "Hm", "seed": 1},
    "/embedding": {"content": "Hum"},
    "/slots/{slot}": {},
    "/v1/embeddings": {"input": "Hum"},
    "/v1/score": {"text_1": "Hum", "text_2": "Hm"},
    "/v1/rerank": {"query": "Hum", "documents": ["Hm", "Hum"]},
    "/v1/classify": {"input": "Hum"},
    "/v1/adapters": {"name": "bee", "ref": "/bee"},
    "/tokenize": {"text": "<s>Hum</s>"},
    "/detokenize": {"tokens": [72, 117, 109, 259]},
    "/apply-template": {"messages": TALK},
    "/v1/chat/completions/input_tokens": {"messages": TALK},
    SPEECH: {"input": "Hum", "response_format": "tokens", "seed": 1},
}
USAGE = {"include_usage": True}
TOOL = {"type": "function", "function": {"name": "hum", "parameters": {"type": "object"}}}
INERT = {p.name for p in PARAMETERS if p.role == "inert"} | {
    *("prompt_cache_options", "prompt_cache_retention"),  # of Responses
}
LLAMACPP_INERT = (
    *("cache_prompt", "id_slot", "n_keep", "n_discard", "n_cache_reuse", "sse_ping_interval"),
    *OF,  # of samplers that are refused unless they are off
)
WITHOUT_EFFECT = {  # what counts tokens reads what makes answers
    ("/v1/responses/input_tokens", "parallel_tool_calls"),
    *((f"/api/{route}", "keep_alive") for route in ("chat", "generate", "embed", "embeddings")),
    ("/api/show", "verbose"),
    *((r, key) for r in ("/completion", "/infill") for key in LLAMACPP_INERT),
}
SHOWN = {"/v1/responses": ("metadata", "store")}  # inert elsewhere
# A value of each parameter that is allowed and differs from what absence means. Several where one
# alone need not show: at least one must.
VALUES: dict[str, Any] = {
    "prompt": "something else",
    "messages": [{"role": "user", "content": "Sing"}],
    "token_ids": [1, 2, 3],
    "text": "Sing",
    "content": "Sing",
    "tokens": [65],
    "operation": "dance",
    "model": "another",
    "max_tokens": 3,
    "max_completion_tokens": 3,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.5,
    "repetition_penalty": 1.5,
    "repeat_penalty": 1.5,
    "repeat_last_n": 7,
    "presence_penalty": 1.0,
    "frequency_penalty": 1.0,
    "logit_bias": {"65": 5},
    "seed": 2,
    "stop": ["a"],
    "stop_token_ids": [65],
    "ignore_eos": True,
    "min_tokens": 5,
    "echo": True,
    "skip_special_tokens": False,
    "speculation": False,
    "response_format": {"type": "json_object"},
    "structured_outputs": {"regex": "a+"},
    "json_schema": {"type": "integer"},
    "guided_json": {"type": "integer"},
    "regex": "a+",
    "guided_regex": "a+",
    "choice": ["a", "b"],
    "guided_choice": ["a", "b"],
    "grammar": 'root ::= "a"+',
    "guided_grammar": 'root ::= "a"+',
    "stream": True,
    "stream_options": {"include_usage": True},
    "n": 2,
    "best_of": 3,
    "timeout_s": 5.0,
    "template_args": {"mood": "glad"},
    "chat_template_kwargs": {"mood": "glad"},
    "add_generation_prompt": False,
    "continue_final_message": True,
    "add_special_tokens": True,
    "add_special": True,
    "parse_special": False,
    "skip_special": True,
    "trace": True,
    "input": "other",
    "with_pieces": True,
    "output_config": {"effort": "low"},
    "return_tokens": True,
    "response_fields": ["content"],
    "n_cmpl": 2,
    "n_predict": 3,
    "n_probs": 2,
    **dict.fromkeys(LLAMACPP_INERT, 1),
    "cache_prompt": False,
    **dict.fromkeys(OFF, 7),
    "samplers": ["top_k"],
    "lora": [{"id": 0}],
    "input_prefix": "other",
    "input_suffix": "other",
    "input_extra": [{"filename": "a", "text": "b"}],
    "embd_normalize": 1,
    "keep_alive": "5m",
    "verbose": True,
    "options": {"seed": 1, "temperature": 0.5, "num_ctx": 1 << 40},
    "format": "json",
    "think": True,
    "suffix": "end",
    "raw": True,
    "images": ["QUJD"],
    "template": "x",
    "context": [1],
    "name": "another",
    **dict.fromkeys(("width", "height", "steps"), 1),
    "instructions": "Be brief.",
    "previous_response_id": "resp_x",
    "max_output_tokens": 3,
    "include": ["message.output_text.logprobs"],
    "reasoning": {"effort": "low"},
    "truncation": "auto",
    "background": True,
    "metadata": {"for": "Anna"},
    "store": False,
    **dict.fromkeys(("conversation", "context_management"), "x"),
    **dict.fromkeys(("max_tool_calls", "moderation", "image", "access_programs"), "x"),
    "background_options": {"completion_window": "2h"},
    "encoding_format": "base64",
    "chat_defaults": True,
    "system": "Be brief.",
    "stop_sequences": ["a"],
    "thinking": {"type": "enabled", "budget_tokens": 5},
    "tools": [TOOL],
    "tool_choice": "none",
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "enable_thinking": True,
    "reasoning_format": "none",
    "thinking_budget": 5,
    "max_thinking_tokens": 5,
    "dimensions": 2,
    "prompt_name": "question",
    "instruction": "find it",
    "truncate": True,
    "text_1": "Sing",
    "text_2": ["Sing", "Hm"],
    "query": "Sing",
    "documents": [{"text": "Sing"}],
    "top_n": 1,
    "return_documents": True,
    "ref": "/wasp",
    "scale": 0.5,
    "voice": "bee",
    "stream_format": "sse",
    "speed": 1.5,
    "guidance_scale": 1.0,
    "codebooks": 2,
}
PROMPTS = ("prompt", "messages", "token_ids", "text", "content")  # one of them at a time
# What must show in the answer itself: the engine's share of it is not the route's.
IN_THE_ANSWER = {"logprobs", "top_logprobs", "echo", "stream", "stream_options", "trace", "n"}
NEEDS: dict[str, dict[str, Any]] = {  # what a parameter needs beside it to mean anything
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True},
    "best_of": {"n": 2},
    "tool_choice": {"tools": [TOOL]},
}


class Specials(ByteTokenizer):
    """Its flags do something."""

    bos_id = 256

    def token_id(self, piece: str) -> int | None:
        return {"<fim_prefix>": 257, "<fim_suffix>": 258, "<fim_middle>": 259}.get(piece)

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        ids: list[int] = [256] if add_special else []
        for piece in re.split(r"(</?s>)", text):
            special = {"<s>": 256, "</s>": 257}.get(piece) if parse_special else None
            ids += [special] if special is not None else list(piece.encode())
        return ids


class Moody(ChatMl):
    """A template that reads one variable, and tools."""

    def render(self, messages: Any, *, add_generation_prompt: bool = True, **args: Any) -> str:
        text = super().render(messages, add_generation_prompt=add_generation_prompt)
        return text + args.get("mood", "") + json.dumps(args.get("tools"))


class Server(Served):
    """`asked`: what the engine was asked for last."""

    def __init__(self, fake: Fake) -> None:
        self.asked: list[tuple[Request, Resolved, list[int]]] = []
        made: list[FakeEngineClient] = []
        start = starter(fake, made)

        async def wrapped(settings: Any, *, on_loading: Any) -> FakeEngineClient:
            engine = await start(settings, on_loading=on_loading)
            engine.tokenizer, engine.chat = Specials(), Moody()
            engine.takes_tools = True
            engine.tokenizer.chat_template = "{{ mood }}"
            engine.seen = self.asked
            return engine

        super().__init__(start=wrapped, lora_slots=1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    sentence = Sentence(prompts={"question": "Q: "})
    with Server(Fake(narrate=False, sentence=sentence)) as found:
        yield found


@pytest.fixture(scope="module")
def speaker() -> Iterator[Server]:
    with Server(speaking_fake(narrate=False)) as found:
        yield found


def seen(server: Server, op: Operation, body: dict[str, Any]) -> tuple[int, str, Any]:
    """(status, what the answer says, what the engine was asked for), without ids and times."""
    server.asked.clear()
    response = server.http.post(op.path, json=body)
    text = response.text
    if response.status_code == 200 and "sse_url" in text:
        created = response.json()
        text = server.http.get(created["sse_url"]).text + str(sorted(created))
    asked = [
        (msgspec.structs.replace(request, id="", params={}), resolved.params, ids)
        for request, resolved, ids in server.asked
    ]
    return response.status_code, steady(text), asked


def steady(text: str) -> str:
    """An answer without what differs from one time to the next."""
    text = re.sub(r"(job|infer|cmpl|chatcmpl|embd|score|rerank|msg)-[0-9a-f]{32}", "ID", text)
    text = re.sub(r"(resp|rs|msg|fc|completion)[_-][0-9a-f]{32}", "ID", text)
    text = re.sub(
        r'"(started_at|created|created_at|completed_at|duration_ms|\w+_time_ms|\w+_ms|\w+_per_second|\w+_duration|modified_at|start_ms|ms)":("[^"]*"|[\d.]+)',
        "",
        text,
    )
    return re.sub(r'"phase":"\w+"', '"phase"', text)


def parameters(op: Operation) -> list[str]:
    """Every key that the route knows: its envelope's and the table's."""
    assert op.body is not None
    known = [f.encode_name for f in msgspec.structs.fields(op.body)]
    return sorted({*known, *(names(op.params) if op.params else ())})


def needs(key: str, op: Operation) -> dict[str, Any]:
    """What a parameter needs beside it on this route."""
    own: dict[str, dict[str, Any]] = {}
    if op.path.startswith("/v1/responses"):
        own = {"tool_choice": {"tools": [{"type": "function", "name": "hum"}]}, "top_logprobs": {}}
    return {**NEEDS, **own}.get(key, {})


def value_of(key: str, op: Operation) -> Any:
    if key == "logprobs":
        return True if op.params == "chat" else 3
    if key == "top_logprobs":
        return 2
    if (op.path, key) == ("/v1/adapters", "name"):
        return "wasp"  # becomes a model's name, which "another" must not be
    if key == "text" and op.path.startswith("/v1/responses"):
        return {"verbosity": "low"}
    if key == "tools" and op.path.startswith("/v1/responses"):
        return [{"type": "function", "name": "hum"}]
    if (op.path, key) == (SPEECH, "response_format"):
        return "wav"
    if (key == "stream" and op.lines) or (op.path, key) == ("/api/embed", "truncate"):
        return False  # true is what absence means
    return VALUES.get(key)


OWN = [op for op in OPERATIONS if op.body is not None and not op.same_as]
CASES = [(op, key) for op in OWN for key in parameters(op)]


@pytest.mark.parametrize(("op", "key"), CASES, ids=[f"{op.path}:{key}" for op, key in CASES])
def test_a_parameter_shows_or_is_refused_or_is_inert(
    server: Server, speaker: Server, op: Operation, key: str
) -> None:
    server = speaker if op.path == SPEECH else server
    base = {**BASE[op.path], **needs(key, op)}
    row = names(op.params).get(key) if op.params else None
    inert = key in INERT and key not in SHOWN.get(op.path, ())
    if inert or (op.path, key) in WITHOUT_EFFECT:
        value = VALUES[key] if (op.path, key) in WITHOUT_EFFECT else "x"
        assert seen(server, op, {**base, key: value}) == seen(server, op, base)
        return
    value = value_of(key, op)
    if value is None:  # known, and not implemented
        assert row is not None
        assert row.role == "unsupported"
        value = {"type": "other"}
    plain = seen(server, op, base)
    status, answer, asked = seen(server, op, {**base, key: value})
    if status in (400, 404):
        told = json.loads(answer)
        fields = {e["field"].split("[")[0].split(".")[0] for e in told.get("errors", ())}
        where = {key, "prompt", "text"} if key in PROMPTS else {key}
        error = told["error"]
        if isinstance(error, str):  # Ollama's form
            assert fields & where or key in error or "made for" in error, answer
            return
        whole = error["code"] == "wrong_model"  # the route refuses everything
        assert fields & where or error["param"] == key or whole, answer
        return
    assert status == 200
    assert (answer, asked) != plain[1:], f"{key} is accepted by {op.path} and changes nothing"
    if key in IN_THE_ANSWER:
        assert answer != plain[1], f"{key} does not show in the answer of {op.path}"


EMPTY: tuple[Any, ...] = ([], {}, "", 0, -1, 0.5, None, False, True, [[]], [None], [{}], [""])


@pytest.mark.parametrize("op", OWN, ids=lambda o: o.path)
def test_nothing_empty_or_of_another_kind_fails_inside(
    server: Server, speaker: Server, op: Operation
) -> None:
    """Every parameter, with what a client sends that has nothing to say."""
    server = speaker if op.path == SPEECH else server
    for key in parameters(op):
        for value in EMPTY:
            body = {**BASE[op.path], "max_tokens": 2, key: value}
            if op.params is None:
                del body["max_tokens"]
            status = server.http.post(op.path, json=body).status_code
            assert status in (200, 400, 404), (key, value)


@pytest.mark.parametrize("op", [o for o in OPERATIONS if o.params], ids=lambda o: o.path)
def test_info_lists_every_parameter_that_a_route_takes(server: Server, op: Operation) -> None:
    assert op.body is not None
    listed = {
        name
        for row in server.http.get("/info").json()["parameters"]
        if op.params in row["surfaces"]
        for name in (row["name"], *row["aliases"])
    }
    assert {f.encode_name for f in msgspec.structs.fields(op.body)} <= listed


def test_log_probabilities_are_answered_by_every_route_that_takes_them(server: Server) -> None:
    body = {"token_ids": [72, 117, 109], "logprobs": 2, "echo": True, "max_tokens": 4, "seed": 1}
    created = server.http.post("/v1/jobs", json=body).json()
    told = events(server.http.get(created["sse_url"]).text)
    assert told[-1] == DONE
    state = server.http.get(f"/v1/jobs/{created['job_id']}").json()
    infer = server.http.post("/v1/infer", json=body).json()
    streamed = [row for e in told[2:-1] if e["type"] == "token" for row in e["logprobs"]]
    [prompt] = [e["logprobs"] for e in told[:-1] if e["type"] == "prompt_logprobs"]
    for answer in (state, infer):
        assert answer["logprobs"] == streamed
        assert answer["prompt_logprobs"] == prompt
        assert answer["token_ids"][:3] == body["token_ids"]
        assert answer["text"].startswith("Hum")
    silent = server.http.post("/v1/infer", json={**body, "logprobs": None}).json()
    assert "logprobs" not in silent
    assert "prompt_logprobs" not in silent


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/completions", {"prompt": "x", "stream_options": USAGE}, "stream_options"),
        ("/v1/completions", {"prompt": "x", "stream_options": {}, "n": 2}, "stream_options"),
        (
            "/v1/chat/completions",
            {"messages": TALK, "stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        (
            "/v1/chat/completions",
            {"messages": TALK, "stream": True, "stream_options": {"include_usge": True}},
            "stream_options.include_usge",
        ),
        ("/v1/chat/completions", {"messages": TALK, "echo": True, "logprobs": True}, "echo"),
        ("/v1/infer", {"messages": TALK, "template_args": {"mod": 1}}, "template_args.mod"),
        ("/v1/infer", {"prompt": "x", "template_args": {"mood": "glad"}}, "template_args"),
        ("/v1/infer", {"prompt": "x", "continue_final_message": True}, "continue_final_message"),
        ("/v1/infer", {"prompt": "x", "add_generation_prompt": True}, "add_generation_prompt"),
        ("/v1/infer", {"token_ids": [1], "add_special_tokens": True}, "add_special_tokens"),
        ("/v1/completions", {"prompt": [1, 2], "add_special_tokens": True}, "add_special_tokens"),
        ("/v1/completions", {"prompt": [1, 9999]}, "prompt"),
        ("/v1/completions", {"prompt": [[1], [9999]]}, "prompt[1]"),
        (
            "/v1/chat/completions",
            {"messages": TALK, "template_args": {"mood": 1}, "chat_template_kwargs": {"mood": 2}},
            "template_args.mood",
        ),
    ],
)  # fmt: skip
def test_what_would_mean_nothing_is_refused_by_name(
    server: Server, path: str, body: dict[str, Any], field: str
) -> None:
    response = server.http.post(path, json=body)
    assert response.status_code == 400
    assert [e["field"] for e in response.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("raw", "names_twice"),
    [
        ('{"prompt":"x","temperature":0,"temperature":1}', ["temperature"]),
        ('{"prompt":"x","prompt":"y","top_p":2}', ["prompt", "top_p"]),
        ('{"messages":[{"role":"user","content":"a","content":"b"}],"seed":1}', ["content"]),
        ('{"prompt":"x","logit_bias":{"65":1,"\\u0036\\u0035":2}}', ["65"]),
        ('{"operation":"status","operation":"infer","prompt":"x"}', ["operation"]),
    ],
)
def test_names_given_twice_are_refused(server: Server, raw: str, names_twice: list[str]) -> None:
    response = server.http.post("/v1/jobs", content=raw)
    assert response.status_code == 400
    assert [e["field"] for e in response.json()["errors"]] == names_twice


def paths() -> list[tuple[str, str]]:
    told = {
        "{job_id}": "job-x",
        "{model:path}": "smollm2",
        "{response_id}": "resp_x",
        "{digest}": "x",
        "{name:path}": "bee",
        "{slot}": "0",
    }
    return [(op.method, re.sub(r"\{[^}]*\}", lambda m: told[m[0]], op.path)) for op in OPERATIONS]


@pytest.mark.parametrize(("method", "path"), paths())
def test_no_route_takes_a_query_or_a_body_that_it_does_not_read(
    server: Server, method: str, path: str
) -> None:
    response = server.http.request(method, path + "?temperature=2&x", json=None)
    assert response.status_code == 400
    assert [e["field"] for e in response.json()["errors"]] == ["temperature", "x"]
    if method != "POST" and (method, path) != ("DELETE", "/api/delete"):  # refuses everything
        response = server.http.request(method, path, json={"temperature": 2})
        assert response.status_code == 400
        assert "This route takes no body" in response.text


def test_lenient_names_the_query_and_the_template_arguments_too() -> None:
    with Served(lenient=True) as served:
        body = {"messages": TALK, "odd": 1, "template_args": {"mood": 1}, "max_tokens": 1}
        response = served.http.post("/v1/chat/completions?api-version=1", json=body)
        assert response.status_code == 200
        assert response.headers["x-ignored-parameters"] == "odd, template_args.mood, api-version"
        response = served.http.get("/info?a=1&a=2&b")
        assert response.headers["x-ignored-parameters"] == "a, b"
        many = {f"odd{i}": 1 for i in range(65)}
        response = served.http.post("/v1/infer", json={"prompt": "x", **many})
        assert response.status_code == 400


@pytest.mark.parametrize("given", ["a b", "é".encode(), "x" * 129, ""])
def test_a_correlation_id_that_cannot_be_kept_is_refused(server: Server, given: Any) -> None:
    response = server.http.get("/health", headers={"X-Correlation-ID": given})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "bad_correlation_id"
    assert server.http.get("/health", headers={"X-Correlation-ID": "a:1"}).headers[
        "x-correlation-id"
    ] == "a:1"  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "coding", "status"),
    [
        ("application/json", "gzip", 415),
        ("application/json", "br", 415),
        ("application/json", "identity", 200),
        ("application/json; charset=latin-1", "", 415),
        ("application/json; charset=UTF-8", "", 200),
        ('application/json; charset="utf-16"', "", 415),
    ],
)
def test_codings_and_character_sets(server: Server, kind: str, coding: str, status: int) -> None:
    headers = {"Content-Type": kind, **({"Content-Encoding": coding} if coding else {})}
    body = json.dumps({"prompt": "x", "max_tokens": 1})
    response = server.http.post("/v1/infer", content=body, headers=headers)
    assert response.status_code == status


ASKS = {  # headers that ask for an effect, and a value that asks for it
    "Idempotency-Key": "k",
    "X-Idempotency-Key": "k",
    "Last-Event-ID": "0",
    "Request-Timeout": "5",
    "X-Request-Timeout": "5",
    "X-Timeout": "5",
    "Grpc-Timeout": "5S",
    "If-Match": '"x"',
    "If-Unmodified-Since": "Tue, 01 Jan 2030 00:00:00 GMT",
    "If-None-Match": "*",
    "If-Modified-Since": "Tue, 01 Jan 2030 00:00:00 GMT",
    "X-HTTP-Method-Override": "DELETE",
    "X-HTTP-Method": "DELETE",
    "X-Method-Override": "DELETE",
}
# What the standards let a server ignore, and what tells something and asks for nothing.
TOLD = {
    "Accept": "text/event-stream",
    "Accept-Encoding": "gzip",
    "Accept-Language": "de",
    "Cache-Control": "no-cache",
    "Range": "bytes=0-3",
    "Prefer": "respond-async",
    "Priority": "u=1",
    "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "OpenAI-Beta": "assistants=v2",
    "OpenAI-Organization": "org",
    "OpenAI-Project": "proj",
    "X-Stainless-Retry-Count": "1",
    "X-Stainless-Read-Timeout": "600",
    "X-Request-ID": "r",
    "X-Client-Request-Id": "r",
}


def harmless(op: Operation, name: str) -> bool:
    """Can this route leave the header unread, because it has no such effect to give or withhold?"""
    if name.startswith("If-") and op.method == "GET":
        return name in ("If-None-Match", "If-Modified-Since")  # without versions all is modified
    if name.startswith(("If-", "X-HTTP", "X-Method")):
        return False
    return not op.works  # asked again it changes nothing, and it is quick


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: f"{op.method} {op.path}")
def test_a_header_has_its_effect_or_is_refused_or_is_harmless(
    server: Server, op: Operation
) -> None:
    path = dict(zip(OPERATIONS, paths(), strict=True))[op][1]
    for name, value in ASKS.items():
        if name.lower() in op.headers:
            continue  # test_idempotency.py and test_resume.py have its effect
        body = BASE.get(op.same_as or op.path) if op.method == "POST" else None
        if op.path == "/v1/loading/progress" and harmless(op, name):
            continue  # a stream without an end
        response = server.http.request(op.method, path, json=body, headers={name: value})
        if harmless(op, name):
            assert "header without effect" not in response.text
        else:
            assert response.status_code == 400, name
            (error,) = response.json()["errors"]
            assert error["field"] == name.lower()
            assert "is a header without effect here" in error["message"]


def test_headers_that_only_tell_are_no_reason_to_refuse(server: Server) -> None:
    for path in ("/v1/infer", "/v1/jobs", "/v1/chat/completions"):
        response = server.http.post(path, json={"messages": TALK, "max_tokens": 1}, headers=TOLD)
        assert response.status_code == 200, response.text


def test_lenient_names_headers_without_effect() -> None:
    with Served(lenient=True) as served:
        headers = {"Idempotency-Key": "k", "If-Match": "*"}
        body = {"prompt": "x", "max_tokens": 1}
        response = served.http.post("/v1/infer", json=body, headers=headers)
        assert response.status_code == 200
        assert response.headers["x-ignored-parameters"] == "idempotency-key, if-match"
