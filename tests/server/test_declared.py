"""Nothing that an official client can say is dropped: every field of its types, with every value
of a fixed set, changes the answer or what the engine is asked for, or is refused by name, or is in
the table of docs/apis.md with the reason why it changes nothing. Fields that a later version of a
client adds are found here too.

The types of Anthropic's `count_tokens` are left out: the same struct reads them, and most of what a
tool or a message says shows in a prompt, not in its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import ollama._types as ollama
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming as Messages
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as Chat
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as Completion
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming as Response,
)

from rbee_worker.checkpoint.sentence import Sentence
from rbee_worker.server.routes import OPERATIONS
from tests.server.declared import Told, Walk
from tests.server.fake_engine import Fake
from tests.server.test_every_parameter import Server, seen

PAGE = Path(__file__).parents[2] / "docs/apis.md"
TALK = [{"role": "user", "content": "Hum"}]
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
KNOWN: dict[str, Any] = {  # values of fields, where another would be refused or say nothing
    "model": "smollm2",
    "messages": TALK,
    "name": "hum",
    "max_tokens": 3,
    "seed": 2,
    "n": 2,
    "best_of": 2,
    "stream": True,
    "truncate": False,
    "modalities": ["audio"],
    "ChatRequest.messages": [{"role": "user", "content": "Sing"}],
    "ResponseCreateParamsNonStreaming.model": "another",
    "ResponseCreateParamsNonStreaming.store": False,
    "parallel_tool_calls": False,
    "include": ["message.output_text.logprobs"],
    "ResponseFormatJSONSchema.json_schema": {"name": "x", "schema": SCHEMA},
    **dict.fromkeys(("parameters", "schema", "input_schema"), SCHEMA),
}


class Api(NamedTuple):
    """name: in the table. base: what every request has."""

    name: str
    path: str
    kind: Any
    base: dict[str, Any]


_SEED = {"seed": 1}
_CALM = {"options": {"seed": 1}, "stream": False}
APIS = (
    Api("OpenAI", "/v1/chat/completions", Chat, _SEED),
    Api("OpenAI", "/v1/completions", Completion, {"prompt": "Hum", **_SEED}),
    Api("OpenAI", "/v1/embeddings", EmbeddingCreateParams, {"input": "Hum"}),
    Api("Responses", "/v1/responses", Response, {"input": "Hum", **_SEED}),
    Api("Anthropic", "/v1/messages", Messages, _SEED),
    Api("Ollama", "/api/chat", ollama.ChatRequest, {"messages": TALK, **_CALM}),
    Api("Ollama", "/api/generate", ollama.GenerateRequest, {"prompt": "Hum", **_CALM}),
    Api("Ollama", "/api/embed", ollama.EmbedRequest, {"input": "Hum"}),
    Api("Ollama", "/api/embeddings", ollama.EmbeddingsRequest, {"prompt": "Hum"}),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(Fake(narrate=False, sentence=Sentence(prompts={"question": "Q: "}))) as found:
        yield found


def walked(server: Server, api: Api) -> Walk:
    (op,) = (o for o in OPERATIONS if (o.method, o.path) == ("POST", api.path))

    def send(body: Any) -> Told:
        status, answer, asked = seen(server, op, body)
        assert status in (200, 400, 404), (status, answer, body)
        return Told((answer, asked), "") if status == 200 else Told(None, answer)

    def place(value: Any) -> Any:
        body = {**api.base, **value}
        if "options" in api.base and isinstance(body["options"], dict):
            body["options"] = {**api.base["options"], **body["options"]}
        return body

    walk = Walk(send, KNOWN)
    walk.record(api.kind, place)
    return walk


def listed() -> dict[str, list[str]]:
    """The page's table: API -> patterns of fields."""
    part = PAGE.read_text().partition("## Fields without effect")[2]
    rows: dict[str, list[str]] = {}
    for line in part.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and "`" in cells[1]:
            assert len(cells[2]) > 10, f"{cells[1]}: no reason"
            rows.setdefault(cells[0], []).extend(re.findall(r"`([^`]+)`", cells[1]))
    return rows


@pytest.mark.slow
def test_what_changes_nothing_is_in_the_table_and_the_table_is_true(server: Server) -> None:
    silent: dict[str, set[str]] = {}
    for api in APIS:
        walk = walked(server, api)
        assert walk.count > 10
        assert walk.unnamed == [], f"{api.path} refuses without a name"
        plain = {re.sub(r"\(\w+\)", "", name) for name in walk.silent}
        silent.setdefault(api.name, set()).update(plain)
    rows = listed()
    assert rows.keys() == silent.keys()
    for name, fields in silent.items():
        dropped = [f for f in fields if not any(fnmatchcase(f, p) for p in rows[name])]
        assert dropped == [], f"{name}: dropped silently"
        stale = [p for p in rows[name] if not any(fnmatchcase(f, p) for f in fields)]
        assert stale == [], f"{name}: not so any more"
