"""Models that read pictures on `cuda`: a tile's features, and prompts through the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.engine.messages import Submit
from rbee_worker.models import build_model
from rbee_worker.ops.cuda.model import CudaModel
from rbee_worker.ops.reference.model import ReferenceModel
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.types import SamplingParams
from tests import seeing
from tests.ops.cuda.engines import cuda_ops, running


@pytest.mark.parametrize(
    "name", ["idefics3", *(pytest.param(n, marks=pytest.mark.slow) for n in ("smolvlm", "gemma3"))]
)
def test_the_features_of_a_tile(name: str, tmp_path: Path) -> None:
    """As the reference backend's, which are transformers' (tests/engine/test_pictures.py)."""
    path = seeing.write(name, tmp_path)
    model = CudaModel(build_model(open_checkpoint(str(path)), cuda_ops(path)), graphs=False)
    plain = ReferenceModel(build_model(open_checkpoint(str(path)), ReferenceOps()))
    tile = seeing.pixels(name, 1, 3)[0]
    got, want = model.host(model.see(tile)), plain.host(plain.see(tile))
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 2e-5 * np.abs(want).max()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("smolvlm", marks=pytest.mark.slow),
        # rows of a picture that see each other: `test_attend` has them, and the interpreter is slow
        pytest.param("gemma3-near", marks=pytest.mark.long),
    ],
)
def test_prompts_with_pictures(name: str, tmp_path: Path) -> None:
    """transformers' log-probabilities, in steps that prompts and answers share."""
    run = running(seeing.write(name, tmp_path), slots=2, context=256)
    prompts = {
        "one": seeing.prompt(name, [5, (1, 1), 4], seed=1),
        "two": seeing.prompt(name, [2, (1, 2), 3, (1, 4), 2], seed=2),
        "text": seeing.prompt(name, [5], seed=3),
    }
    for key, one in prompts.items():
        params = SamplingParams(temperature=0.0, max_tokens=2, logprobs=1)
        run.submit(Submit(seq=key, prompt_ids=one.ids, pictures=one.pictures, params=params))
    run.end()
    for key, one in prompts.items():
        answer = run.answers[key]
        logits = torch.tensor(seeing.logits(name, one, answer.ids))[len(one.ids) - 1 : -1]
        want = logits.log_softmax(-1)
        assert answer.ids == want.argmax(-1).tolist(), key
        got = np.array([row.logprob for row in answer.logprobs])
        assert np.abs(got - want.max(-1).values.numpy()).max() < 1e-4, key
