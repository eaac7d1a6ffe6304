"""Published configs: every key is read or known to be inert, and the count of parameters is right.

Names and shapes are those of transformers' classes on the `meta` device; no weight exists.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.formats import Packed, TensorInfo
from rbee_worker.checkpoint.hf_config import read_config
from rbee_worker.models import plan_model
from tests.published import PUBLISHED, Published


class Shapes:
    """Tensors that have a name and a shape, in bfloat16."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def names(self) -> list[str]:
        return list(self._shapes)

    def info(self, name: str) -> TensorInfo:
        shape = self._shapes[name]
        return TensorInfo("BF16", shape, 2 * int(np.prod(shape)))

    def read(self, name: str) -> Packed:
        shape = self._shapes[name]
        rows = int(np.prod(shape[:-1], dtype=np.int64))
        return Packed(np.zeros((rows, 2 * shape[-1]), np.uint8), "BF16", shape)


@pytest.mark.parametrize("model", PUBLISHED, ids=[p.name for p in PUBLISHED])
def test_a_published_config(model: Published, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(model.config))
    with torch.device("meta"):
        hf = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.from_pretrained(tmp_path)
        )
    tied = set(hf.all_tied_weights_keys)
    shapes = {n: tuple(t.shape) for n, t in hf.state_dict().items() if n not in tied}
    arch, config, _ = read_config(path)
    ckpt = Checkpoint(
        ref=model.name,
        path=tmp_path,
        kind="safetensors",
        arch=arch,
        config=config,
        generation={},
        source=Shapes(shapes),
        tokenizer_config={},
        files={},
        gguf=None,
        notes=(),
    )
    planned, _ = plan_model(ckpt, "bf16")
    assert planned.notes == ()
    assert planned.n_parameters == model.parameters
