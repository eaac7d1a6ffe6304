"""One request never stops the others: the worst body of each limit, on every route, by a stream.

What is held is work, not time: how many values are decoded, how many faults and names are told, and
the processor time of the longest callback of the event loop as a multiple of a fixed piece of work
that is measured at the same time (a hundredth to a few hundredths of a second).
"""

from __future__ import annotations

import contextlib
import gc
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rbee_worker.errors import MOST_FAULTS
from rbee_worker.params.parameter import MAX_BIASES, MAX_STOP_LENGTH, MAX_STOPS
from rbee_worker.params.request import MOST_DEPTH, MOST_VALUES
from rbee_worker.server import json_shape
from rbee_worker.server.json_shape import MOST_CONTAINERS, MOST_MEMBERS
from rbee_worker.server.routes import OPERATIONS
from rbee_worker.tokenizer.core import Tokenizer
from tests.server.fake_engine import ByteTokenizer, Fake
from tests.server.loop_time import watched, yardstick
from tests.server.reading import events
from tests.server.served import Served
from tests.tokenizer.test_bounds import SLOW
from tests.tokenizer.test_bounds import tokenizer as slow_tokenizer
from tests.yardstick import wall_s

MOST = 5.0  # times the yardstick: what one callback may cost
LONGEST = 40.0  # times the yardstick by the clock: a stream's longest gap (a hang is thousands)
ANSWER = 1 << 17  # bytes of a refusal, at most
ROUTES = sorted(op.path for op in OPERATIONS if op.body is not None)
TEXT = 2000  # characters that are tokenized on the event loop
ONE = b'"max_tokens":1'
TALK = ONE + b',"messages":[{"role":"user","content":"x"}]'


def rows(item: bytes, n: int) -> bytes:
    return b"[" + b",".join([item] * n) + b"]"


def named(pattern: bytes, n: int) -> bytes:
    return b"{" + b",".join(pattern % i for i in range(n)) + b"}"


def with_prompt(key: str, value: bytes) -> bytes:
    return b'{"prompt":"x","max_tokens":1,"%b":%b}' % (key.encode(), value)


def bodies() -> dict[str, bytes]:
    """By what is worst about each."""
    values, members = json_shape.MOST_VALUES - 100, MOST_MEMBERS - 20
    containers = MOST_CONTAINERS - 20
    size = (16 << 20) - 200  # of the default --max-body-kb
    name = b"k" * 200
    return {
        "values": with_prompt("token_ids", rows(b"1", values)),
        "values in a known list": with_prompt("stop", rows(b'"x"', values)),
        "arrays": with_prompt("metadata", rows(b"[]", containers)),
        "objects": with_prompt("metadata", rows(b'{"a":1}', containers)),
        "unknown names": named(b'"key%d":1', members),
        "long unknown names": named(b'"' + name + b'%d":1', members),
        "names of almost the right kind": named(b'"temperatur%d":1', members),
        "names given twice": b"{" + b",".join([named(b'"a%d":1', members // 2)[1:-1]] * 2) + b"}",
        "nesting": with_prompt("metadata", b"[" * 900 + b"]" * 900),
        "more nesting than can be read": with_prompt("metadata", b"[" * 8000 + b"]" * 8000),
        "biases": with_prompt("logit_bias", named(b'"%d":1', MAX_BIASES)),
        "too many biases": with_prompt("logit_bias", named(b'"%d":1', members)),
        "stop strings": with_prompt(
            "stop", rows(b'"' + b"ab" * (MAX_STOP_LENGTH // 2) + b'"', MAX_STOPS)
        ),
        "messages": b'{%b,"messages":%b}' % (ONE, rows(b'{"role":"user","content":"x"}', 4096)),
        "parts": b'{%b,"messages":[{"role":"user","content":%b}]}'
        % (ONE, rows(b'{"type":"text","text":"x"}', containers)),
        "wrong messages": b'{"messages":%b}' % rows(b'{"role":"user","audio":1}', 4096),
        "template arguments": b'{%b,"template_args":%b}' % (TALK, named(b'"v%d":1', MOST_VALUES)),
        "too many template arguments": b'{%b,"template_args":%b}'
        % (TALK, named(b'"v%d":1', members - 10)),
        "nested template arguments": b'{%b,"template_args":{"a":%b}}'
        % (TALK, b"[" * (MOST_DEPTH + 9) + b"]" * (MOST_DEPTH + 9)),
        "prompts": b'{"max_tokens":1,"prompt":%b}' % rows(b'"' + b"y" * TEXT + b'"', 256),
        "prompts of ids": b'{"max_tokens":1,"prompt":%b}' % rows(rows(b"1", 1900), 256),
        "answers": b'{"max_tokens":1,"n":64,"prompt":"%b"}' % (b"y" * TEXT),
        "characters": b'{"prompt":"%b"}' % (b"y" * size),
        "escapes": b'{"prompt":"%b"}' % (b'\\"' * (size // 2)),
        "one long name": b'{"%b":1,"prompt":"x"}' % (b"k" * size),
        "one long number": with_prompt("seed", b"1" * 4000),
        "a longer number": with_prompt("temperature", b"1" * size),
        "text": b'{"text":"%b"}' % (b"x y " * 16_000),
        "ids": b'{"tokens":%b}' % rows(b"1", 65_000),
        # beyond the limits
        "too many values": rows(b"1", 2 * values),
        "too many arrays": rows(b"[]", 4 * containers),
        "too many names": named(b'"%d":1', 2 * members),
        "quotes": rows(b'""', (size // 3) - 10),
    }


BODIES = bodies()


class Reader:
    """A client that follows one long answer; `longest` is the longest time between two pieces."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.longest = 0.0
        self.pieces = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        while self.pieces < 5:
            time.sleep(0.01)
        self.longest = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        seen = self.pieces
        while self.pieces < seen + 2:  # it still goes on
            time.sleep(0.01)
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _read(self) -> None:
        body = {"prompt": "x", "max_tokens": 60_000, "stream": True}
        last = time.monotonic()
        with self._served.http.stream("POST", "/v1/completions", json=body) as response:
            for _ in response.iter_raw():
                now = time.monotonic()
                self.longest = max(self.longest, now - last)
                last = now
                self.pieces += 1
                if self._stop.is_set():
                    return


def fake() -> Fake:
    return Fake(token_s=0.005, context=1 << 16, script=lambda request: [120] * 60_000)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with without_others_objects(), Served(fake(), max_prompt_ratio=1) as server:
        yield server


@contextlib.contextmanager
def without_others_objects() -> Iterator[None]:
    """What earlier tests of this process left is not part of a server: a collection that walks it
    stops every thread for most of a second."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def check(served: Served, names: list[str], routes: list[str]) -> None:
    """Every body of `names` on every route of `routes`, while a stream is read."""
    spent, passed = yardstick()
    with Reader(served) as reader:
        for name in names:
            for route in routes:
                response = held_up(served, name, route, MOST * spent)
                if response.status_code >= 400:
                    check_refusal(response.json(), response.content)
        longest = reader.longest  # read first: the yardstick's own collections hold the reader up
        passed = max(passed, yardstick()[1])
        assert longest <= LONGEST * passed


def held_up(served: Served, name: str, route: str, most: float) -> httpx.Response:
    """The answer to a body that holds up the event loop for at most `most` seconds.

    Above it, the median of three counts: a core that the machine lends elsewhere for a moment
    counts as processor time too, but work costs it each time.
    """
    seen = []
    for _ in range(3):
        with watched(served.loop) as one:
            response = served.http.post(route, content=BODIES[name])
        seen.append((one.worst, one.where))
        if seen[0][0] <= most:
            return response
    worst, where = sorted(seen)[1]
    assert worst <= most, (name, route, worst / most, where)
    return response


def check_refusal(body: dict[str, Any], raw: bytes) -> None:
    assert len(raw) <= ANSWER
    error = body["error"]  # a text in Ollama's form
    assert len(error if isinstance(error, str) else error["message"]) <= 300
    assert len(body.get("errors", ())) <= MOST_FAULTS + 1
    assert all(len(e["field"]) <= 200 for e in body.get("errors", ()))


def test_the_worst_of_each_limit_holds_up_nobody(served: Served) -> None:
    check(served, list(BODIES), ["/v1/completions"])


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_on_every_route(served: Served, route: str) -> None:
    check(served, list(BODIES), [route])


def test_many_faults_are_counted_and_the_first_told(served: Served) -> None:
    response = served.http.post("/v1/infer", content=BODIES["unknown names"])
    errors = response.json()["errors"]
    assert len(errors) == MOST_FAULTS + 1
    # all but the listed ones, and "give a prompt" is one of those
    assert f"{MOST_MEMBERS - 20 + 1 - MOST_FAULTS} more" in errors[-1]["message"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("too many values", "values"),
        ("too many arrays", "arrays and objects"),
        ("too many names", "names in objects"),
        ("quotes", "values"),
    ],
)
def test_bodies_with_too_much_in_them_are_413(served: Served, name: str, words: str) -> None:
    response = served.http.post("/v1/infer", content=BODIES[name])
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_complex"
    assert words in response.json()["error"]["message"]


def test_long_texts_of_any_characters_are_not_taken_for_structure(served: Served) -> None:
    text = json.dumps('[{",:}]\\"' * 6000)
    response = served.http.post("/tokenize", content=b'{"text":%b}' % text.encode())
    assert response.status_code == 200
    assert response.json()["count"] == len(json.loads(text).encode())


class Slow(ByteTokenizer):
    """Encodes with another tokenizer."""

    def __init__(self, inner: Tokenizer) -> None:
        self.is_quick = inner.is_quick  # type: ignore[method-assign]
        self.encode = inner.encode  # type: ignore[method-assign]
        self.token_text = inner.token_text  # type: ignore[method-assign]


def test_a_text_that_takes_long_although_it_is_short_holds_up_nobody(tmp_path: Path) -> None:
    """A pattern that nobody publishes, whose time doubles with every letter of a word."""
    tokenizer = slow_tokenizer(tmp_path, pre_tokenizer=SLOW)
    text = ("a" * 22 + "!") * 8
    alone = wall_s(lambda: tokenizer.encode(text))
    with without_others_objects(), Served(fake()) as served:
        served.engine.tokenizer = Slow(tokenizer)
        with Reader(served) as reader:
            told = served.http.post("/tokenize", json={"text": text}).json()
        longest = reader.longest  # the pieces that were held up have come
    assert told["count"] == len(tokenizer.encode(text))
    assert longest < alone / 2


@pytest.mark.slow
def test_long_answers_hold_up_nobody_either() -> None:
    """Log-probabilities of many tokens, also of the prompt, as every route answers them."""
    fake = Fake(chunk=16, context=1 << 14, script=lambda request: [120] * 8000)
    ids = {"token_ids": [7] * 6000}
    asked = {"max_tokens": 8000, "logprobs": 20}
    spent, _ = yardstick()
    with without_others_objects(), Served(fake, max_prompt_ratio=1) as served:
        job = served.http.post("/v1/jobs", json={**ids, **asked, "echo": True}).json()
        whole = served.http.get(job["sse_url"])
        with watched(served.loop) as seen:
            state = served.http.get(f"/v1/jobs/{job['job_id']}").json()
            again = served.http.get(job["sse_url"])
            infer = served.http.post("/v1/infer", json={**ids, **asked}).json()
            plain = {"prompt": ids["token_ids"], "max_tokens": 8000, "logprobs": 5, "n": 2}
            completion = served.http.post("/v1/completions", json=plain).json()
            echoed = {**plain, "max_tokens": 8, "echo": True, "n": 1}
            echo = served.http.post("/v1/completions", json=echoed).json()
            streamed = served.http.post("/v1/completions", json={**echoed, "stream": True}).text
            talk = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 8000}
            more = {"logprobs": True, "top_logprobs": 20}
            chat = served.http.post("/v1/chat/completions", json={**talk, **more}).json()
            text = served.http.post("/detokenize", json={"tokens": [120] * 16_000}).json()["text"]
            tokens = served.http.post("/tokenize", json={"text": text}).json()
        assert seen.worst <= MOST * spent, (seen.worst / spent, seen.where)
    assert again.content == whole.content
    assert len(state["logprobs"]) == len(infer["logprobs"]) == 8000
    assert state["logprobs"] == infer["logprobs"]
    assert len(state["prompt_logprobs"]) == 6000
    (scores,) = [c["logprobs"] for c in echo["choices"]]
    assert len(scores["tokens"]) == 6008
    choices = [c for e in events(streamed)[:-1] for c in e["choices"]]
    rows = [c["logprobs"] for c in choices if c["logprobs"] is not None]
    assert "".join(c["text"] for c in choices) == echo["choices"][0]["text"]
    assert max(len(row["tokens"]) for row in rows) == fake.scored
    for key, whole_list in scores.items():
        assert [x for row in rows for x in row[key]] == whole_list
    assert state["prompt_logprobs"][0] is None
    assert "prompt_logprobs" not in infer
    assert [len(c["logprobs"]["tokens"]) for c in completion["choices"]] == [8000, 8000]
    assert len(chat["choices"][0]["logprobs"]["content"]) == 8000
    assert tokens["count"] == len(tokens["pieces"]) == 16_000
