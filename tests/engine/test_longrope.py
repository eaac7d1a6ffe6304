"""A sequence that outgrows LongRoPE's short frequencies is computed again with the long ones.

First around the fake model, whose keys say which frequencies they were computed with; then a tiny
Phi-3 against transformers, which drops its cache at the same token.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from rbee_worker.config import Settings
from rbee_worker.engine.messages import Preempted, Rescaled, Scheduled, Submit, Tokens
from rbee_worker.engine.rope_length import RopeLengths
from rbee_worker.loading.load import load_engine
from rbee_worker.state.specs import StateGroup
from rbee_worker.types import SamplingParams
from tests.archs import ARCHS
from tests.archs.base import oracle, write_safetensors
from tests.engine.fakes import (
    FULL,
    MIXED,
    RECURRENT,
    WINDOWED,
    FakeModel,
    ask,
    bent,
    greedy,
    make_engine,
)
from tests.engine.test_engine import Log, run

SWITCH = 16
TOLERANCE = 2e-5  # of a log-probability, float32 against float32
PROMPTS = [
    [5, 6, 7, 8, 9, 10, 11, 12, 13],  # crosses in the middle
    [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20],  # with its first token
    [5, 6, 7, 8] * 6,  # is longer from the start
    [30],  # never
]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("groups", [FULL, MIXED, WINDOWED, RECURRENT])
@pytest.mark.parametrize(
    "options",
    [
        {"max_seqs": 1},
        {},
        {"token_budget": 3},
        {"token_budget": 200},
        {"prefix_cache": False},
        {"tokens": 40},
        {"tokens": 36, "token_budget": 5, "block_size": 1},
        {"kv_cache": False},
        {"block_size": 16},
    ],
    ids=str,
)
def test_the_same_tokens_however_they_are_computed(
    groups: tuple[StateGroup, ...], options: dict[str, Any]
) -> None:
    model = FakeModel(groups, switch=SWITCH)
    log = run([ask(str(i), p, 12) for i, p in enumerate(PROMPTS)], model=model, **options)
    for i, prompt in enumerate(PROMPTS):
        assert log.tokens[str(i)] == greedy(prompt, 12, groups, SWITCH), (i, options)
    told = log.kinds(Rescaled)
    assert {(m.seq, m.past) for m in told} == {("0", SWITCH), ("1", SWITCH)}
    whole = options in ({"prefix_cache": False}, {"kv_cache": False})
    assert {m.tokens for m in told} == {SWITCH + 1} or not whole
    if "tokens" in options and groups == FULL:
        assert log.kinds(Preempted)


@pytest.mark.usefixtures("backend")
def test_prefixes_are_shared_among_the_short_and_among_the_long_only() -> None:
    prompt = PROMPTS[1]
    log = Log(make_engine(FakeModel(switch=SWITCH)))
    for tokens, cached in (
        (prompt, 0),
        ([*prompt, 21, 22, 23], 0),  # the same beginning, other frequencies
        ([*prompt, 21, 22, 23], 16),
        (prompt, 12),
    ):
        log.engine.submit(ask(str(len(log.finished)), tokens, 1))
        log.drain()
        assert log.kinds(Scheduled)[-1].cached == cached
    log.engine.submit(ask("crosses", prompt, 12))
    log.drain()
    assert log.tokens["crosses"] == greedy(prompt, 12, FULL, SWITCH)
    assert [m.tokens for m in log.kinds(Rescaled)] == [1]  # the rest was the longer one's


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kept", [0, 4, 7, 8, 11])
def test_going_on_in_another_engine(kept: int) -> None:
    """After a crash: with the long frequencies at once where the tokens kept are more."""
    want = greedy(PROMPTS[0], 12, FULL, SWITCH)
    resumed = ask("a", PROMPTS[0], 12, output_ids=tuple(want[:kept]))
    log = run([resumed], model=FakeModel(switch=SWITCH))
    assert log.tokens["a"] == want[kept:]
    assert len(log.kinds(Rescaled)) == (len(PROMPTS[0]) + kept <= SWITCH)


def test_rope_lengths() -> None:
    """The prompt's, for dynamic scaling, but past the switch once the sequence is."""
    none, long = RopeLengths(), RopeLengths([bent(50), bent(20), bent(50)])
    assert [none.of(5, 5), none.of(5, 500)] == [5, 5]
    assert long.switches == [20, 50]
    assert [long.of(5, n) for n in (5, 20, 21, 50, 51, 900)] == [5, 5, 21, 21, 51, 51]
    assert [long.of(30, 30), long.of(30, 60), long.of(60, 90)] == [30, 51, 60]


# ---- a real model

ARCH = next(a for a in ARCHS if a.id == "phi3-long")
ORIGINAL = 32
CROSSING = list(range(3, 23)), [7, 9] * 14, list(range(3, 35)), list(range(60, 100)), [1, 2, 3]
N = 24  # tokens after each of these prompts: the last never crosses


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert ARCH.config().original_max_position_embeddings == ORIGINAL
    return write_safetensors(oracle(ARCH), tmp_path_factory.mktemp("longrope"))


@cache
def by_transformers(prompt: tuple[int, ...]) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens of HF's own `generate`, and log-probabilities [N, vocab] of one forward pass
    for each length, without a cache."""
    model = oracle(ARCH)
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=N,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0].tolist()
        rows = [
            model(torch.tensor([found[:n]]), use_cache=False).logits[0, -1]
            for n in range(len(prompt), len(found))
        ]
    return found[len(prompt) :], torch.stack(rows).log_softmax(-1)


def answers(folder: Path, prompts: list[list[int]], **options: Any) -> tuple[Any, ...]:
    """Tokens and log-probabilities of each prompt, and what else the engine said."""
    settings = Settings(
        **{
            "model": str(folder),
            "threads": 1,
            "dtype": "f32",
            "kv_dtype": "f32",
            "kv_tokens": 1024,
            "ctx": 128,
            "exact_activations": options.get("backend") == "cpu",
            **options,
        }
    )
    engine, info = load_engine(settings, lambda _: None)
    assert not [note for note in info.notes if "frequencies" in note]
    for i, prompt in enumerate(prompts):
        params = SamplingParams(temperature=0.0, max_tokens=N, ignore_eos=True, logprobs=5)
        engine.submit(Submit(seq=str(i), prompt_ids=tuple(prompt), params=params))
    out = []
    while not engine.idle:
        out += engine.step()
    engine.pool.check()
    ids: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[dict[int, float]]] = [[] for _ in prompts]
    for m in out:
        if isinstance(m, Tokens):
            assert m.logprobs is not None
            ids[int(m.seq)] += m.ids
            logprobs[int(m.seq)] += [dict(lp.top) for lp in m.logprobs]
    return ids, logprobs, out


BACKENDS = ["reference", pytest.param("cpu", marks=pytest.mark.kernels)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"token_budget": 7},
        {"kv_tokens": 128, "block_size": 16, "prefix_cache": False},
        {"kv_cache": False},
    ],
    ids=["together", "chunks", "preempted", "uncached"],
)
def test_transformers_says_the_same(folder: Path, backend: str, options: dict[str, Any]) -> None:
    ids, logprobs, out = answers(folder, list(CROSSING), backend=backend, **options)
    for i, prompt in enumerate(CROSSING):
        want, rows = by_transformers(tuple(prompt))
        assert ids[i] == want
        for row, found in zip(rows, logprobs[i], strict=True):
            for token, value in found.items():
                assert abs(float(row[token]) - value) < TOLERANCE
    assert {m.seq for m in out if isinstance(m, Rescaled)} == {"0", "1", "2"}
    assert any(isinstance(m, Preempted) for m in out) == ("kv_tokens" in options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_to_the_bit_alone_and_in_company(folder: Path, backend: str) -> None:
    together = answers(folder, list(CROSSING), backend=backend, token_budget=11)
    for i, prompt in enumerate(CROSSING):
        (ids,), (logprobs,), _ = answers(folder, [prompt], backend=backend)
        assert (ids, logprobs) == (together[0][i], together[1][i])
