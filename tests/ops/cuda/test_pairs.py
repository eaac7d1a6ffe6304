"""Models of an encoder and a decoder on `cuda`, through the engine with overlapping steps:
transformers' log-probabilities, and greedy answers."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from rbee_worker.engine.messages import Submit
from rbee_worker.types import SamplingParams
from tests import pairs
from tests.ops.cuda.engines import running

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
    run = running(path)
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
