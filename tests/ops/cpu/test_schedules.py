"""The same request gives the same tokens and log-probabilities, bit for bit, in 200 random
schedules of a real engine on compiled kernels: whatever runs beside it, however its prompt is cut
up, found in the prefix cache, preempted, or resumed.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import pytest
import torch

from rbee_worker.engine.engine import Engine
from rbee_worker.engine.make import make_engine
from rbee_worker.engine.messages import Submit
from rbee_worker.models import llama
from rbee_worker.models.weights import Weights
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.state import CpuState
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.state.pool import StatePool
from rbee_worker.types import SamplingParams
from tests.engine.schedules import Answer, each_alone, random_schedule
from tests.engine.test_same_tokens import RandomWeights

VOCAB, BLOCK, MAX_SEQS, CONTEXT = 700, 16, 6, 256
KINDS = {  # window, how keys are kept, threads -> schedules, 200 in all
    (None, "f32", 1): 65,
    (23, "f32", 1): 65,
    (None, "i8", 1): 60,
    (23, "f16", 2): 10,
}
POOLS = [9, 10, 40]  # blocks: tight ones, which preempt where there is no window, and a roomy one
SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0.0, "logprobs": 2},
    {"temperature": 0.0},
    {"temperature": 1.0, "logprobs": 0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "logprobs": 3},
    {"temperature": 1.5, "top_p": 0.9, "logprobs": 1},
    {"temperature": 1.5, "min_p": 0.02, "repetition_penalty": 1.3, "repeat_last_n": 9},
    {"temperature": 0.0, "repetition_penalty": 1.5, "frequency_penalty": 0.5, "logprobs": 0},
    {"temperature": 1.0, "presence_penalty": 1.0, "logit_bias": {3: 4.0}, "logprobs": 5},
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def library() -> Library:
    return Library(isa.choose(os.environ.get("RBEE_CPU_ISA", "")))


@cache
def model(window: int | None, kv: str, threads: int) -> CpuModel:
    """Two layers of random numbers, recorded for steps of at most 64 tokens."""
    config = llama.Mistral(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        sliding_window=window,
        tie_word_embeddings=True,
    )
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, 64)}
    for i in range(2):
        at = f"model.layers.{i}"
        shapes |= {
            f"{at}.input_layernorm.weight": (64,),
            f"{at}.post_attention_layernorm.weight": (64,),
            f"{at}.self_attn.q_proj.weight": (64, 64),
            f"{at}.self_attn.k_proj.weight": (32, 64),
            f"{at}.self_attn.v_proj.weight": (32, 64),
            f"{at}.self_attn.o_proj.weight": (64, 64),
            f"{at}.mlp.gate_proj.weight": (96, 64),
            f"{at}.mlp.up_proj.weight": (96, 64),
            f"{at}.mlp.down_proj.weight": (64, 96),
        }
    shapes["model.norm.weight"] = (64,)
    ops = CpuOps(library(), Team(library(), threads))
    decoder = llama.build_mistral(config, Weights(RandomWeights(shapes), ops))
    return CpuModel(decoder, ops, Shape(64, 4, CONTEXT, BLOCK, kv))


@cache
def requests() -> list[Submit]:
    """Prompts of 1 to 90 tokens that often begin alike, with every kind of sampling."""
    rng = random.Random(3)
    shared = rng.choices(range(VOCAB), k=64)
    made = []
    for i in range(24):
        start = shared[: rng.choice([0, 16, 33, 64])]
        own = rng.choices(range(VOCAB), k=rng.choice([1, 3, 14, 26]))
        params = SamplingParams(
            max_tokens=rng.choice([1, 9, 20, 45]), seed=100 + i, **SAMPLING[i % len(SAMPLING)]
        )
        made.append(
            Submit(
                seq=f"r{i}",
                prompt_ids=(*start, *own),
                params=params,
                prompt_logprobs=params.logprobs is not None and i % 3 == 0,
            )
        )
    return made


def engine(kind: tuple[int | None, str, int], blocks: int, budget: int) -> Engine:
    made = model(*kind)
    pool = StatePool(
        made.groups,
        tokens=blocks * BLOCK,
        block_size=BLOCK,
        max_seqs=MAX_SEQS,
        step_tokens=budget,
    )
    memory = CpuState(made.groups, pool.n_blocks, pool.n_slots, block_size=BLOCK, dtype=kind[1])
    return make_engine(
        made,
        memory,
        made.ops.sampling(VOCAB),
        pool,
        token_budget=budget,
        max_seqs=MAX_SEQS,
        context=CONTEXT,
    )


@cache
def alone(kind: tuple[int | None, str, int]) -> dict[str, Answer]:
    return each_alone(partial(engine, kind), requests(), blocks=40)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_same_bits_in_random_schedules(kind):
    seen: Counter[str] = Counter()
    for seed in range(KINDS[kind]):
        seen += random_schedule(partial(engine, kind), requests(), alone(kind), POOLS, seed)
    # Otherwise too little of what this test is about has happened.
    assert seen["preempted"] >= (KINDS[kind] / 5 if kind[0] is None else 0), seen
    assert seen["cached"] >= KINDS[kind] * 20, seen
    assert seen["resumed"] >= KINDS[kind] / 3, seen
    assert seen["shared steps"] >= KINDS[kind] * 10, seen
    assert seen["compared"] >= KINDS[kind] * 40, seen


def test_requests_alone_differ_from_each_other():
    """The comparison above could not fail if every answer were the same."""
    found = [tuple(a.ids) for a in alone((None, "f32", 1)).values()]
    assert len(set(found)) > 20
    assert len({i for ids in found for i in ids}) > 100
