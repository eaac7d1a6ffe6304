"""Models of an encoder and a decoder on `cuda`, through the engine with overlapping steps:
transformers' log-probabilities, and greedy answers."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.config import Settings
from rbee_worker.engine.make import make_engine
from rbee_worker.engine.messages import Submit
from rbee_worker.models import build_model
from rbee_worker.ops.backends import backend
from rbee_worker.ops.cuda.model import CudaModel
from rbee_worker.ops.cuda.ops import CudaOps
from rbee_worker.ops.cuda.state import CudaState
from rbee_worker.state.pool import StatePool
from rbee_worker.types import SamplingParams
from tests import pairs
from tests.engine.schedules import Run

BOUND = 1e-4  # of a log-probability


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("flan", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("t5", "mt5", "umt5")),
    ],
)
def test_answers_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    path = pairs.write(name, tmp_path)
    settings = Settings(model=str(path), backend="cuda")
    ops = backend("cuda").ops(settings, "f32", weight_bytes=0, progress=lambda *_: None)
    assert isinstance(ops, CudaOps)
    decoder = build_model(open_checkpoint(str(path)), ops)
    model = CudaModel(decoder, graphs=False)
    pool = StatePool(model.groups, tokens=640, block_size=16, max_seqs=4, step_tokens=64)
    state = CudaState(
        *(model.groups, pool.n_blocks, pool.n_slots),
        block_size=16,
        dtype="f32",
        device=ops.device,
        drawn=ops.drawn,
    )
    run = Run(
        make_engine(
            *(model, state, ops.sampling(model.vocab_size), pool),
            token_budget=64,
            max_seqs=4,
            context=640,
            start=decoder.start,
            buckets=True,
            overlaps=True,
        )
    )
    sources = {str(n): random.Random(n).choices(range(2, pairs.VOCAB), k=n) for n in (1, 17, 180)}
    for key, source in sources.items():
        params = SamplingParams(temperature=0.0, max_tokens=4, logprobs=1)
        run.submit(Submit(seq=key, prompt_ids=tuple(source), params=params))
    run.end()
    for key, source in sources.items():
        answer = run.answers[key]
        want = pairs.logprobs(name, source, answer.ids)
        assert answer.ids == want.argmax(-1).tolist()
        got = np.array([row.logprob for row in answer.logprobs])
        assert np.abs(got - want.max(-1)).max() < BOUND
