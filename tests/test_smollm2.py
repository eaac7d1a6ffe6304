"""The default model itself: parity with transformers, chat, every parameter end to end.

Slow: the weights (93 MB) come through the alias, as a user's do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rbee_worker.checkpoint import open_checkpoint
from tests.gguf_oracle import greedy, hf_llama
from tests.worker import Worker

pytestmark = pytest.mark.slow

PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "def fibonacci(n):",
    "Water boils at a temperature of",
    "Dear Dr. Watson,\n\nI write to you about",
)
# The compiled kernels without rounding: the same answers as `reference`, ten times as soon.
QUICK: dict[str, Any] = {"model": "smollm2", "backend": "cpu", "exact_activations": True}
LOOPS = "The best way to learn is to"  # greedy decoding repeats itself after this


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    w = Worker(**QUICK, max_seqs=16)
    yield w
    w.close()


@pytest.fixture(scope="module")
def greedy_64() -> list[list[int]]:
    """What transformers in float32 decodes from the weights that the `gguf` package decodes."""
    ckpt = open_checkpoint("smollm2")
    hf = hf_llama(ckpt.path)
    from rbee_worker.tokenizer.load import load_tokenizer

    tokenizer = load_tokenizer(ckpt)
    return [greedy(hf, tokenizer.encode(text), 64) for text in PROMPTS]


@pytest.mark.parametrize("kv_dtype", ["auto", pytest.param("f32", marks=pytest.mark.long)])
def test_greedy_equals_transformers(greedy_64: list[list[int]], kv_dtype: str) -> None:
    """64 tokens for each of five prompts, together in one batch."""
    w = Worker(model="smollm2", backend="reference", kv_dtype=kv_dtype)
    params = {"temperature": 0, "max_tokens": 64, "ignore_eos": True}
    answers = w.ask_all([(text, params) for text in PROMPTS])
    w.close()
    for text, answer, want in zip(PROMPTS, answers, greedy_64, strict=True):
        assert answer.ids == want, text


def test_chat_knows_paris(worker: Worker) -> None:
    answer = worker.chat("What is the capital of France?", temperature=0, max_tokens=40)
    assert "Paris" in answer.text
    assert answer.end is not None
    assert answer.end.stop.rule == "EOS"
    assert answer.end.stop.token_text == "<|im_end|>"
    assert "<|im_end|>" not in answer.text


def test_the_repeat_penalty_is_really_applied(worker: Worker) -> None:
    """It breaks a loop, and 1.0 changes nothing."""

    def repeats(ids: list[int]) -> int:
        grams = [tuple(ids[i : i + 4]) for i in range(len(ids) - 3)]
        return len(grams) - len(set(grams))

    base = {"temperature": 0, "max_tokens": 120, "ignore_eos": True}
    plain = worker.ask(PROMPTS[1], **base)
    same = worker.ask(PROMPTS[1], **base, repetition_penalty=1.0)
    penalised = worker.ask(PROMPTS[1], **base, repetition_penalty=1.3)
    assert plain.ids == same.ids
    assert repeats(plain.ids) >= 8, plain.text
    assert repeats(penalised.ids) <= repeats(plain.ids) / 4, penalised.text
    assert penalised.started is not None
    assert penalised.started.sampling.params.repetition_penalty == 1.3
    assert penalised.started.sampling.origins["repetition_penalty"] == "request"


DRAWN = {"temperature": 0.9, "seed": 4, "max_tokens": 24, "ignore_eos": True}
GREEDY = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
DIFFERENT = (
    ("temperature", DRAWN, {"temperature": 0}),
    ("seed", DRAWN, {"seed": 5}),
    ("top_p", DRAWN, {"top_p": 1e-6}),
    ("top_k", DRAWN, {"top_k": 1}),
    ("min_p", DRAWN, {"min_p": 1.0}),
    ("repetition_penalty", GREEDY, {"repetition_penalty": 2.0}),
    ("repeat_penalty", GREEDY, {"repeat_penalty": 2.0}),
    ("repeat_last_n", GREEDY | {"repetition_penalty": 2.0}, {"repeat_last_n": 1}),
    ("presence_penalty", GREEDY, {"presence_penalty": 2.0}),
    ("frequency_penalty", GREEDY, {"frequency_penalty": 2.0}),
    ("logit_bias", GREEDY, {"logit_bias": {"100": 100}}),
    ("max_tokens", GREEDY, {"max_tokens": 5}),
    ("stop", GREEDY, {"stop": [" the"]}),
    ("stop_token_ids", GREEDY, {"stop_token_ids": [260]}),
)


@pytest.mark.parametrize(("name", "base", "change"), DIFFERENT, ids=[d[0] for d in DIFFERENT])
def test_every_parameter_changes_the_answer(
    worker: Worker, name: str, base: dict[str, Any], change: dict[str, Any]
) -> None:
    """From the request to the text: an extreme value must show, the same value must not."""
    before, again = worker.ask(LOOPS, **base), worker.ask(LOOPS, **base)
    assert before.ids == again.ids
    assert worker.ask(LOOPS, **{**base, **change}).ids != before.ids


def test_eos_parameters(worker: Worker) -> None:
    chat = {"temperature": 0, "max_tokens": 60}
    question = "What is the capital of France?"
    plain = worker.chat(question, **chat)
    assert plain.end is not None
    n = len(plain.ids)
    longer = worker.chat(question, **chat, ignore_eos=True)
    forced = worker.chat(question, **chat, min_tokens=n + 5)
    shown = worker.chat(question, **chat, skip_special_tokens=False)
    assert longer.end is not None
    assert longer.end.stop.rule == "MAX_TOKENS"
    assert len(forced.ids) >= n + 5
    assert shown.text.endswith("<|im_end|>")
    assert shown.ids == plain.ids


def test_a_seed_is_reproduced_alone_and_in_any_company(worker: Worker) -> None:
    params = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 32, "ignore_eos": True}
    alone = [worker.ask(text, **params, seed=i) for i, text in enumerate(PROMPTS)]
    crowd = [(text, {**params, "seed": i}) for i, text in enumerate(PROMPTS)]
    noise = [(text, {**params, "seed": 100 + i}) for i, text in enumerate(PROMPTS * 3)]
    together = worker.ask_all(crowd + noise)[: len(crowd)]
    assert [a.ids for a in together] == [a.ids for a in alone]
    assert len({tuple(a.ids) for a in alone}) == len(alone)


def test_no_kv_cache_gives_the_same_tokens(worker: Worker) -> None:
    params = {"temperature": 0, "max_tokens": 12, "ignore_eos": True, "logprobs": 2}
    with_cache = worker.ask(PROMPTS[0], **params)
    without = Worker(**QUICK, kv_cache=False, kv_dtype="f16")
    answer = without.ask(PROMPTS[0], **params)
    without.close()
    assert answer.ids == with_cache.ids
    assert answer.logprobs == with_cache.logprobs  # bit for bit
