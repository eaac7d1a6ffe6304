"""The official OpenAI client, with strict validation of every response.

Three of the client's types are narrower than what OpenAI's own server sends, and than what other
clients rely on: `finish_reason` is null in every streamed completion but the last of a choice, and
the first token of an echoed prompt has null in `token_logprobs` and `top_logprobs` (evaluation
harnesses cut at it). `wider` lets null through in these three places; all else stays strict.
"""

from __future__ import annotations

import codecs
import json
import threading
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types import Completion
from openai.types.completion_choice import CompletionChoice, Logprobs

from tests.server.fake_engine import Fake, answer_ids
from tests.server.served import Served, wait_for

TALK: list[Any] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hum"}, {"type": "text", "text": "!"}]},
]


@pytest.fixture(scope="module", autouse=True)
def wider() -> Iterator[None]:
    fields = [
        (CompletionChoice, "finish_reason"),
        (Logprobs, "token_logprobs"),
        (Logprobs, "top_logprobs"),
    ]
    before = [(kind, name, kind.model_fields[name].annotation) for kind, name in fields]

    def put(annotations: list[Any]) -> None:
        for (kind, name), annotation in zip(fields, annotations, strict=True):
            kind.model_fields[name].annotation = annotation
        for kind in (Logprobs, CompletionChoice, Completion):
            kind.model_rebuild(force=True)

    put(
        [
            Literal["stop", "length", "content_filter"] | None,
            list[float | None] | None,
            list[dict[str, float] | None] | None,
        ]
    )
    yield
    put([annotation for _, _, annotation in before])


def test_strictness_is_on(served: Served) -> None:
    """The same client refuses an answer that breaks the schema."""
    broken = httpx.MockTransport(
        lambda request: httpx.Response(200, json={"id": "x", "choices": [], "created": "soon"})
    )
    client = openai.OpenAI(
        base_url=served.url,
        api_key="x",
        http_client=httpx.Client(transport=broken),
        _strict_response_validation=True,
    )
    with pytest.raises(openai.APIResponseValidationError):
        client.completions.create(model="smollm2", prompt="x")


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return make(served)


def make(served: Served, token: str | None = None, retries: int = 0) -> openai.OpenAI:
    client = openai.OpenAI(
        base_url=served.url + "/v1",
        api_key=token or served.token,
        max_retries=retries,
        _strict_response_validation=True,
    )
    served.others.append(client)
    return client


def expected(prompt: str, n: int, choice: int = 0) -> str:
    from rbee_worker.types import Request

    ids = answer_ids(Request(id="", prompt=prompt, choice=choice))[:n]
    return bytes(ids).decode(errors="replace")


def test_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="smollm2", prompt="Bees", max_tokens=30)
    assert answer.choices[0].text == expected("Bees", 30)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 30)
    assert answer.object == "text_completion"


def test_the_default_is_16_tokens_as_openai_has_it(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="smollm2", prompt="Bees")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_completion_streamed(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="smollm2",
        prompt="Bees",
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks[:-1]) == expected("Bees", 40)
    assert [c.choices[0].finish_reason for c in chunks[:-1]][-1] == "length"
    assert all(c.choices[0].finish_reason is None for c in chunks[:-2])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 44
    assert len({c.id for c in chunks}) == 1


def test_usage_is_absent_unless_asked_for(client: openai.OpenAI) -> None:
    stream = client.completions.create(model="smollm2", prompt="B", max_tokens=3, stream=True)
    assert all(c.usage is None and c.choices for c in stream)


def test_several_prompts_and_n(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="smollm2", prompt=["one", "two two"], n=2, best_of=2, max_tokens=20
    )
    texts = {c.index: c.text for c in answer.choices}
    assert texts == {
        0: expected("one", 20, 0),
        1: expected("one", 20, 1),
        2: expected("two two", 20, 0),
        3: expected("two two", 20, 1),
    }
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3 + 7  # each prompt once
    assert answer.usage.completion_tokens == 80
    stream = client.completions.create(
        model="smollm2", prompt=["one", "two two"], n=2, max_tokens=20, stream=True
    )
    streamed = dict.fromkeys(range(4), "")
    for chunk in stream:
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts


@pytest.mark.parametrize("prompt", [list(b"ids"), [list(b"ids"), list(b"more")]])
def test_prompts_of_ids(client: openai.OpenAI, prompt: Any) -> None:
    answer = client.completions.create(model="smollm2", prompt=prompt, max_tokens=4)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens in (3, 7)


def test_echo_with_logprobs_scores_the_prompt(client: openai.OpenAI) -> None:
    """What evaluation harnesses ask: nothing generated, every prompt token scored but the first."""
    answer = client.completions.create(
        model="smollm2", prompt="bees hum", max_tokens=0, echo=True, logprobs=2
    )
    choice = answer.choices[0]
    assert choice.text == "bees hum"
    scores = choice.logprobs
    assert scores is not None
    assert scores.tokens == list("bees hum")
    assert scores.token_logprobs is not None
    assert scores.token_logprobs[0] is None
    assert scores.token_logprobs[1:] == [-0.5] * 7
    assert scores.text_offset == list(range(8))
    assert scores.top_logprobs is not None
    assert all(len(t) == 2 for t in scores.top_logprobs[1:])
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_logprobs_cover_text_and_prompt_alike(client: openai.OpenAI) -> None:
    args: dict[str, Any] = {"model": "smollm2", "prompt": "bê", "max_tokens": 25, "logprobs": 1}
    for echo in (False, True):
        whole = client.completions.create(**args, echo=echo).choices[0]
        assert whole.logprobs is not None
        n = 25 + (3 if echo else 0)
        assert len(whole.logprobs.tokens or []) == n
        offsets = whole.logprobs.text_offset or []
        assert offsets == sorted(offsets)
        assert offsets[-1] <= len(whole.text)
        stream = client.completions.create(**args, echo=echo, stream=True)
        tokens: list[str] = []
        text = ""
        for chunk in stream:
            text += chunk.choices[0].text
            scored = chunk.choices[0].logprobs
            tokens += (scored.tokens or []) if scored is not None else []
        assert (text, tokens) == (whole.text, whole.logprobs.tokens)


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2", messages=TALK, max_completion_tokens=20, temperature=0, user="me"
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    rendered = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHum\n!<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert answer.usage.prompt_tokens == len(rendered)


def test_chat_defaults_to_the_rest_of_the_context(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="smollm2", messages=TALK)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 128


def test_chat_streamed(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="smollm2", messages=TALK, max_tokens=33, n=2, logprobs=True, top_logprobs=3
    )
    stream = client.chat.completions.create(
        model="smollm2",
        messages=TALK,
        max_tokens=33,
        n=2,
        logprobs=True,
        top_logprobs=3,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts = ["", ""]
    tokens: list[list[str]] = [[], []]
    roles: list[str] = []
    finishes: list[str] = []
    for chunk in stream:
        if not chunk.choices:
            assert chunk.usage == whole.usage
            continue
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        roles += [choice.delta.role] if choice.delta.role else []
        finishes += [choice.finish_reason] if choice.finish_reason else []
        if choice.logprobs is not None:
            tokens[choice.index] += [t.token for t in choice.logprobs.content or []]
    assert texts == [c.message.content for c in whole.choices]
    assert roles == ["assistant"] * 2
    assert finishes == ["length"] * 2
    for index, choice_ in enumerate(whole.choices):
        assert choice_.logprobs is not None
        content = choice_.logprobs.content or []
        assert [t.token for t in content] == tokens[index]
        assert len(content) == 33
        assert all(len(t.top_logprobs) == 3 for t in content)
        assert b"".join(bytes(t.bytes or []) for t in content).decode(errors="replace") == (
            choice_.message.content
        )


def test_the_stop_record_and_seed_ride_along(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="smollm2", prompt="x", max_tokens=2, seed=5)
    extra = (answer.choices[0].model_extra or {})["rbee"]
    assert extra["seed"] == 5
    assert extra["stop"]["rule"] == "MAX_TOKENS"


def test_models(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["smollm2"]
    assert client.models.retrieve("smollm2").owned_by == "rbee-worker"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_another_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="x")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_errors_are_typed_and_list_every_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="smollm2",
            messages=TALK,
            temperature=3,
            top_p=0,
            tools=[{"type": "function", "function": {"name": "f"}}],
            extra_body={"nonsense": 1},
        )
    assert isinstance(caught.value.body, dict)
    assert {e["field"] for e in caught.value.body["errors"]} == {
        "temperature",
        "top_p",
        "tools",
        "nonsense",
    }
    with pytest.raises(openai.BadRequestError, match="best_of"):
        client.completions.create(model="smollm2", prompt="x", best_of=3)


def test_values_that_mean_off_are_accepted(client: openai.OpenAI) -> None:
    client.chat.completions.create(
        model="smollm2",
        messages=TALK,
        max_tokens=1,
        extra_body={
            "tools": [],
            "tool_choice": "none",
            "response_format": {"type": "text"},
            "top_k": -1,
            "logit_bias": None,
            "store": True,
            "metadata": {"a": "b"},
            "service_tier": "auto",
        },
    )


def test_wrong_token_is_an_authentication_error(served: Served) -> None:
    with pytest.raises(openai.AuthenticationError):
        make(served, token="wrong-wrong-wrong").models.list()


def test_leaving_a_stream_cancels_it() -> None:
    with Served(Fake(hold=threading.Event(), hold_at=9)) as served:
        stream = make(served).completions.create(
            model="smollm2", prompt="x", max_tokens=900, n=2, stream=True
        )
        next(iter(stream))
        assert served.engine.held == 2
        stream.close()
        wait_for(lambda: served.engine.held == 0)


def test_leaving_a_blocking_request_cancels_it() -> None:
    with Served(Fake(hold=threading.Event(), hold_at=9)) as served:
        impatient = make(served).with_options(timeout=0.3)
        with pytest.raises(openai.APITimeoutError):
            impatient.completions.create(model="smollm2", prompt="x", max_tokens=900)
        wait_for(lambda: served.engine.held == 0)


def test_a_failure_in_mid_stream_is_an_api_error() -> None:
    with Served(Fake(fail_at=5)) as served:
        stream = make(served).completions.create(
            model="smollm2", prompt="x", max_tokens=20, stream=True
        )
        with pytest.raises(openai.APIError, match="failed"):
            list(stream)
        with pytest.raises(openai.InternalServerError):
            make(served).completions.create(model="smollm2", prompt="x", max_tokens=20)


def test_a_full_queue_is_a_rate_limit_error_and_retried_by_the_client() -> None:
    hold = threading.Event()
    with Served(Fake(hold=hold, slots=1), max_queue=0) as served:
        busy = served.http.post("/v1/jobs", json={"prompt": "x", "max_tokens": 2})
        assert busy.status_code == 200
        second = served.http.post("/v1/jobs", json={"prompt": "x", "max_tokens": 2})
        assert second.status_code == 429
        with pytest.raises(openai.RateLimitError) as caught:
            make(served).completions.create(model="smollm2", prompt="x")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        hold.set()
        answer = make(served, retries=9).completions.create(
            model="smollm2", prompt="x", max_tokens=2
        )
        assert answer.choices


def test_lenient_names_what_it_ignored() -> None:
    with Served(lenient=True) as served:
        raw = make(served).completions.with_raw_response.create(
            model="smollm2", prompt="x", max_tokens=2, extra_body={"odd key\n": 1, "mirostat_x": 2}
        )
        assert raw.headers["x-ignored-parameters"] == "odd%20key%0A, mirostat_x"
        assert json.loads(raw.text)["choices"]


def test_a_fingerprint_changes_with_whatever_rounds_numbers() -> None:
    found = []
    how: tuple[dict[str, Any], ...] = (
        *({}, {"max_seqs": 3}, {"bf16_activations": True}, {"exact_activations": True}),
        *({"quantize": "fp8"}, {"deterministic": True}),
    )
    for settings in how:
        with Served(**settings) as served:
            body = {"prompt": "hum", "max_tokens": 1}
            answer = served.http.post("/v1/completions", json=body).json()
            found.append(answer["system_fingerprint"])
    assert found[0] == found[1]  # the same tokens, in any batch
    assert len({*found}) == 5


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_places_of_tokens_do_not_depend_on_how_events_are_cut(chunk: int) -> None:
    """Bytes that make no character are one mark each: places are where Python's decoder has them
    once all bytes before a token are known."""
    ids = [0x62, 0xE2, 0x82, 0xAC, 0xFF, 0xFE, 0x62, 0xF0, 0x9F, 0x98, 0x80, 0xC3, 0x62]
    with Served(Fake(chunk=chunk, script=lambda _: ids)) as served:
        body = {"prompt": "hum", "max_tokens": len(ids), "logprobs": 0, "echo": True}
        (choice,) = served.http.post("/v1/completions", json=body).json()["choices"]
    decoder, places, at = codecs.getincrementaldecoder("utf-8")("replace"), [0, 1, 2], 3
    for one in ids:
        places.append(at)
        at += len(decoder.decode(bytes([one])))
    assert choice["logprobs"]["text_offset"] == places
    assert choice["text"] == "hum" + bytes(ids).decode(errors="replace")
