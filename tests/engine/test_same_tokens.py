"""The same request gives the same logits, bit for bit, whatever else the engine does.

A tiny random Llama, the real ops, pool, scheduler and sampler. Every logits row that the sampler
is given is kept under (seed, length of the sequence) and compared with the row the same request
saw when it ran alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rbee_worker.checkpoint.formats import Packed, TensorInfo
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import Finished, Preempted, Scheduled, Submit, Tokens
from rbee_worker.engine.runner import Runner
from rbee_worker.engine.sampler import Drawing, Prepared, Sampler
from rbee_worker.models import llama
from rbee_worker.models.weights import Weights
from rbee_worker.ops.reference.model import ReferenceModel
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.ops.reference.sampling.torch_sampling import TorchSampling
from rbee_worker.ops.reference.state import TorchState
from rbee_worker.state.pool import StatePool
from rbee_worker.types import SamplingParams

VOCAB = 199
Key = tuple[int, int]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class RandomWeights:
    """Whatever tensor is asked for, drawn from its name; the shapes are the config's."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def names(self) -> list[str]:
        return list(self._shapes)

    def info(self, name: str) -> TensorInfo:
        shape = self._shapes[name]
        return TensorInfo("F32", shape, 4 * int(np.prod(shape)))

    def read(self, name: str) -> Packed:
        shape = self._shapes[name]
        rng = np.random.default_rng(list(name.encode()))
        values = rng.normal(scale=1.0 if len(shape) == 1 else 0.15, size=shape)
        data = np.ascontiguousarray(values, np.float32).view(np.uint8)
        return Packed(data.reshape(int(np.prod(shape[:-1])), -1), "F32", shape)

    def release(self) -> None:
        pass


@cache
def model(window: int | None) -> ReferenceModel:
    config = llama.Mistral(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        sliding_window=window,
        tie_word_embeddings=True,
    )
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, 48)}
    for i in range(3):
        at = f"model.layers.{i}"
        shapes |= {
            f"{at}.input_layernorm.weight": (48,),
            f"{at}.post_attention_layernorm.weight": (48,),
            f"{at}.self_attn.q_proj.weight": (48, 48),
            f"{at}.self_attn.k_proj.weight": (16, 48),
            f"{at}.self_attn.v_proj.weight": (16, 48),
            f"{at}.self_attn.o_proj.weight": (48, 48),
            f"{at}.mlp.gate_proj.weight": (80, 48),
            f"{at}.mlp.up_proj.weight": (80, 48),
            f"{at}.mlp.down_proj.weight": (48, 80),
        }
    shapes["model.norm.weight"] = (48,)
    return ReferenceModel(
        llama.build_mistral(config, Weights(RandomWeights(shapes), ReferenceOps()))
    )


class WatchingSampler(Sampler):
    """Keeps every row of logits under the sequence's seed and length."""

    def __init__(self, max_seqs: int) -> None:
        super().__init__(VOCAB, max_seqs, TorchSampling(torch.device("cpu")))
        self.seen: dict[Key, list[Tensor]] = {}
        self._keys: list[Key] = []

    def prepare(self, slots: Sequence[int], indices: Sequence[int], *more: Any) -> Prepared:
        seeds = [self._stream[slot][0] for slot in slots]
        self._keys = list(zip(seeds, indices, strict=True))
        return super().prepare(slots, indices, *more)

    def sample(self, logits: Tensor, prepared: Prepared) -> Drawing:
        for row, key in zip(logits, self._keys, strict=True):
            self.seen.setdefault(key, []).append(row.clone())
        return super().sample(logits, prepared)


@dataclass
class Outcome:
    ids: dict[str, list[int]]
    logits: dict[Key, list[Tensor]]
    preempted: int
    cached: int
    pool: StatePool


def run(
    requests: list[Submit],
    *,
    window: int | None = None,
    blocks: int = 200,
    budget: int = 64,
    arrive: int = 1,
    kv_cache: bool = True,
    kv_dtype: str = "f32",
) -> Outcome:
    """All requests through one engine; `arrive` of them join before each step."""
    m, max_seqs = model(window), 8
    pool = StatePool(
        m.groups, tokens=blocks * 16, block_size=16, max_seqs=max_seqs, step_tokens=budget
    )
    memory = TorchState(m.groups, pool.n_blocks, pool.n_slots, block_size=16, dtype=kv_dtype)
    sampler = WatchingSampler(max_seqs)
    runner = Runner(m, memory, sampler, block_size=16, max_seqs=max_seqs)
    engine = Engine(
        runner, pool, token_budget=budget, max_seqs=max_seqs, context=512, kv_cache=kv_cache
    )
    ids: dict[str, list[int]] = {r.seq: [] for r in requests}
    waiting, preempted, cached, ended = list(requests), 0, 0, 0
    while waiting or not engine.idle:
        for _ in range(min(arrive, len(waiting))):
            engine.submit(waiting.pop(0))
        for out in engine.step():
            if isinstance(out, Tokens):
                ids[out.seq] += out.ids
            elif isinstance(out, Preempted):
                preempted += 1
            elif isinstance(out, Scheduled):
                cached += out.cached
            elif isinstance(out, Finished):
                assert out.error is None
                ended += 1
    assert ended == len(requests)
    pool.check()
    assert pool.usage().used == 0
    return Outcome(ids, sampler.seen, preempted, cached, pool)


def requests(count: int = 8) -> list[Submit]:
    """Prompts that partly share their beginning, every kind of sampling."""
    rng = random.Random(11)
    shared = rng.choices(range(VOCAB), k=50)
    kinds = [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
        {"temperature": 1.5, "min_p": 0.02, "repetition_penalty": 1.3, "repeat_last_n": 20},
        {"temperature": 0.0, "repetition_penalty": 1.5, "frequency_penalty": 0.5},
        {"temperature": 1.0, "presence_penalty": 1.0, "logit_bias": {3: 4.0}},
    ]
    return [
        Submit(
            seq=f"r{i}",
            prompt_ids=tuple(
                shared[: rng.choice([0, 20, 50])] + rng.choices(range(VOCAB), k=5 + 9 * i)
            ),
            params=SamplingParams(max_tokens=24, seed=1000 + i, **kinds[i % len(kinds)]),
        )
        for i in range(count)
    ]


@cache
def alone(window: int | None, kv_dtype: str = "f32") -> tuple[dict[str, list[int]], dict]:
    ids: dict[str, list[int]] = {}
    logits: dict[Key, list[Tensor]] = {}
    for request in requests():
        one = run([request], window=window, budget=512, kv_dtype=kv_dtype)
        ids |= one.ids
        logits |= one.logits
    return ids, logits


def assert_same(outcome: Outcome, window: int | None, kv_dtype: str = "f32") -> None:
    ids, logits = alone(window, kv_dtype)
    assert outcome.ids == ids
    assert outcome.logits.keys() == logits.keys()
    for key, rows in outcome.logits.items():
        for row in rows:
            assert torch.equal(row, logits[key][0]), key


@pytest.mark.parametrize("window", [None, 23])
def test_in_a_batch(window: int | None) -> None:
    outcome = run(requests(), window=window, budget=512, arrive=3)
    assert_same(outcome, window)


@pytest.mark.parametrize("window", [None, 23])
@pytest.mark.parametrize("budget", [9, 17, 64])
def test_in_chunks(window: int | None, budget: int) -> None:
    assert_same(run(requests(), window=window, budget=budget), window)


@pytest.mark.parametrize("window", [None, 23])
def test_with_a_cached_prefix(window: int | None) -> None:
    """Each request twice, the second after the first has ended: its prompt is found again."""
    first = requests()
    again = [Submit(seq=f"{r.seq}-again", prompt_ids=r.prompt_ids, params=r.params) for r in first]
    outcome = run([*first, *again], window=window, budget=512, arrive=1)
    assert outcome.cached >= sum(len(r.prompt_ids) // 16 * 16 for r in first) / 2
    ids, logits = alone(window)
    for r in first:
        assert outcome.ids[r.seq] == outcome.ids[f"{r.seq}-again"] == ids[r.seq]
    for key, rows in outcome.logits.items():
        assert len(rows) == 2
        assert all(torch.equal(row, logits[key][0]) for row in rows), key


@pytest.mark.parametrize("window", [None, 23])
def test_after_preemption(window: int | None) -> None:
    """A pool that holds two or three of eight sequences."""
    outcome = run(requests(), window=window, blocks=16, budget=64, arrive=4)
    assert_same(outcome, window)


def test_preemption_happens() -> None:
    """The test above would prove nothing in a pool that is never short."""
    short = [
        Submit(
            seq=f"p{i}",
            prompt_ids=tuple(range(i, i + 20)),
            params=SamplingParams(max_tokens=150, seed=i, temperature=1.0, ignore_eos=True),
        )
        for i in range(6)
    ]
    roomy = run(short, blocks=200, arrive=6)
    tight = run(short, blocks=16, arrive=6)
    assert roomy.preempted == 0
    assert tight.ids == roomy.ids
    for key, rows in tight.logits.items():
        assert all(torch.equal(row, roomy.logits[key][0]) for row in rows), key


@pytest.mark.parametrize("window", [None, 23])
def test_without_the_cache(window: int | None) -> None:
    assert_same(run(requests(), window=window, budget=100, arrive=2, kv_cache=False), window)


def test_resumed_in_a_new_engine() -> None:
    """A request that goes on from the tokens it had, as after a crash."""
    ids, logits = alone(None)
    resumed = [
        Submit(
            seq=r.seq,
            prompt_ids=r.prompt_ids,
            params=r.params,
            output_ids=tuple(ids[r.seq][: 3 * i]),
        )
        for i, r in enumerate(requests())
    ]
    outcome = run(resumed, budget=512, arrive=8)
    for i, r in enumerate(resumed):
        assert outcome.ids[r.seq] == ids[r.seq][3 * i :]
    for key, rows in outcome.logits.items():
        assert torch.equal(rows[0], logits[key][0]), key


def test_with_a_half_precision_cache() -> None:
    assert_same(run(requests(), budget=17, arrive=3, kv_dtype="f16"), None, "f16")
