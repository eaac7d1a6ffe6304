"""One request, every API: the same tokens, figures and ends, streamed or not, whoever renders them.

Slow: a real worker with a tiny model answers some hundred requests.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.server.spawned import Spawned
from tests.server.talking import write
from tests.tokenizer.tool_templates import OPENED

pytestmark = pytest.mark.slow

MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
LENGTH = {"max_tokens", "length", "incomplete"}


class Said(NamedTuple):
    """What an API has told of an answer; None where it does not tell."""

    reasoning: str
    text: str
    prompt: int
    output: int
    cut: bool | None


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spawned]:
    folder = write(tmp_path_factory.mktemp("model") / "m", OPENED, tokens=MARKS, rows=True)
    args = ("--local-mode", "--port", "0", "--backend", "cpu", "--threads", "1")
    with Spawned.daemon(*args, "--speculate", "ngram", "--model-ref", str(folder)) as spawned:
        spawned.ready()
        yield spawned


def post(worker: Spawned, path: str, body: dict[str, Any]) -> str:
    response = worker.http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.text


def frames(text: str) -> list[dict[str, Any]]:
    """The data of server-sent events."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line[:5] == "data:"]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def joined(rows: list[dict[str, Any]], key: str) -> str:
    return "".join(row.get(key) or "" for row in rows)


def chat(worker: Spawned, ask: dict[str, Any], stream: bool) -> Said:
    body = {**ask, "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
        chunks = frames(post(worker, "/v1/chat/completions", body))
        rows = [c["choices"][0] for c in chunks if c["choices"]]
        said, usage = [row["delta"] for row in rows], chunks[-1]["usage"]
        finish = rows[-1]["finish_reason"]
    else:
        whole = json.loads(post(worker, "/v1/chat/completions", body))
        said, usage = [whole["choices"][0]["message"]], whole["usage"]
        finish = whole["choices"][0]["finish_reason"]
    parts = joined(said, "reasoning_content"), joined(said, "content")
    return Said(*parts, usage["prompt_tokens"], usage["completion_tokens"], finish in LENGTH)


def responses(worker: Spawned, ask: dict[str, Any], stream: bool) -> Said:
    body = {k: v for k, v in ask.items() if k not in ("messages", "max_tokens")}
    body |= {"input": ask["messages"], "max_output_tokens": ask["max_tokens"], "stream": stream}
    text = post(worker, "/v1/responses", body)
    if stream:
        told = frames(text)
        whole = told[-1]["response"]
        by = "response.reasoning_text.delta", "response.output_text.delta"
        parts = [joined([e for e in told if e["type"] == kind], "delta") for kind in by]
    else:
        whole = json.loads(text)
        items = {item["type"]: item["content"] for item in whole["output"]}
        parts = [joined(items.get(kind, []), "text") for kind in ("reasoning", "message")]
    usage = whole["usage"]
    cut = whole["status"] in LENGTH
    return Said(parts[0], parts[1], usage["input_tokens"], usage["output_tokens"], cut)


def messages(worker: Spawned, ask: dict[str, Any], stream: bool) -> Said:
    """Anthropic's has no min_p: it is what the chat default is."""
    body = {k: v for k, v in ask.items() if k not in ("min_p", "stop")} | {"stream": stream}
    body |= {"stop_sequences": ask["stop"]} if "stop" in ask else {}
    text = post(worker, "/v1/messages", body)
    if stream:
        told = frames(text)
        deltas = [e["delta"] for e in told if e["type"] == "content_block_delta"]
        (last,) = (e for e in told if e["type"] == "message_delta")
        usage, reason = last["usage"], last["delta"]["stop_reason"]
        parts = joined(deltas, "thinking"), joined(deltas, "text")
    else:
        whole = json.loads(text)
        usage, reason = whole["usage"], whole["stop_reason"]
        parts = joined(whole["content"], "thinking"), joined(whole["content"], "text")
    prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    return Said(*parts, prompt, usage["output_tokens"], reason in LENGTH)


def ollama(worker: Spawned, ask: dict[str, Any], stream: bool) -> Said:
    options = {k: v for k, v in ask.items() if k not in ("messages", "max_tokens")}
    options["num_predict"] = ask["max_tokens"]
    body = {"messages": ask["messages"], "options": options, "stream": stream}
    lines = [json.loads(line) for line in post(worker, "/api/chat", body).splitlines()]
    said, last = [line["message"] for line in lines], lines[-1]
    parts = joined(said, "thinking"), joined(said, "content")
    return Said(
        *parts, last["prompt_eval_count"], last["eval_count"], last["done_reason"] in LENGTH
    )


def jobs(worker: Spawned, ask: dict[str, Any], stream: bool) -> Said:
    if not stream:
        whole = json.loads(post(worker, "/v1/infer", ask))
        parts = whole.get("reasoning", ""), whole["text"]
        return Said(*parts, whole["prompt_tokens"], whole["tokens_generated"], None)
    job = json.loads(post(worker, "/v1/jobs", ask))
    told = frames(worker.http.get(job["sse_url"]).text)
    rows = [e for e in told if e["type"] in ("token", "end")]
    state = worker.http.get(f"/v1/jobs/{job['job_id']}").json()
    parts = joined(rows, "reasoning"), joined(rows, "t") + joined(rows, "text")
    assert parts == (state.get("reasoning", ""), state["text"])
    return Said(*parts, state["prompt_tokens"], state["tokens_out"], None)


APIS = (chat, responses, messages, ollama, jobs)


def asked(rng: random.Random) -> dict[str, Any]:
    words = rng.choice(["Hi", "the the the the", "e\u0301\U0001f600", "<think>hm"])
    ask: dict[str, Any] = {
        "messages": [{"role": "user", "content": f"{words} {rng.randrange(99)}"}],
        "max_tokens": rng.choice([1, 5, 40]),
        "temperature": rng.choice([0, 0.7, 1.3]),
        "top_p": rng.choice([1.0, 0.9]),
        "top_k": rng.choice([1000, 5]),
        "min_p": 0.05,
        "seed": rng.randrange(1 << 31),
    }
    if rng.random() < 0.5:
        ask["stop"] = rng.choice([["e"], ["q", "zz"], ["\n"], [" t", "he"]])
    return ask


def test_every_api_tells_the_same_answer(worker: Spawned) -> None:
    rng = random.Random(4)
    for _ in range(20):
        ask = asked(rng)
        first = chat(worker, ask, False)
        for api in APIS:
            for stream in (False, True):
                said = api(worker, ask, stream)
                same = said._replace(cut=first.cut if said.cut is None else said.cut)
                assert same == first, (api.__name__, stream, ask)


def test_a_completion_is_the_same_streamed_or_not(worker: Spawned) -> None:
    """With log-probabilities, whose places are those of the text, whatever events cut."""
    rng = random.Random(6)
    for _ in range(25):
        body: dict[str, Any] = {
            "prompt": rng.choice(["hi", ["a", "bb the"], "e\u0301\U0001f600x"]),
            "max_tokens": rng.choice([1, 7, 30]),
            "seed": rng.randrange(99),
            "temperature": rng.choice([0, 1.0]),
            "n": rng.choice([1, 3]),
            "logprobs": rng.choice([0, 2]),
            "echo": rng.random() < 0.5,
            "stop": rng.choice([[], ["e"], ["q", "th"]]),
        }
        whole = json.loads(post(worker, "/v1/completions", body))
        more = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = frames(post(worker, "/v1/completions", body | more))
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        assert [chunks[-1]["usage"][k] for k in counts] == [whole["usage"][k] for k in counts]
        for choice in whole["choices"]:
            rows = [
                c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]
            ]
            assert joined(rows, "text") == choice["text"]
            assert rows[-1]["finish_reason"] == choice["finish_reason"]
            scores = choice["logprobs"]
            parts = [row["logprobs"] for row in rows if row["logprobs"] is not None]
            for key, values in scores.items():
                assert [x for part in parts for x in part[key]] == values, (key, body)
            offsets = scores["text_offset"]
            assert offsets == sorted(offsets), body
            assert offsets[-1] <= len(choice["text"]), body
            before = True  # whether nothing is left of bytes that make no character
            for token, place in zip(scores["tokens"], offsets, strict=True):
                plain = token.isascii() and not token.startswith(("bytes:", "<"))
                if before and plain and place < len(choice["text"]):
                    assert choice["text"][place:].startswith(token), (token, place, body)
                before = plain
