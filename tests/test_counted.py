"""Published configs of known models: the right number of parameters, without a byte of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.formats import Packed, TensorInfo
from rbee_worker.checkpoint.hf_config import read_config
from rbee_worker.models import ARCHITECTURES, plan_model
from tests.counted import COUNTED
from tests.published_large import LARGE


class Names:
    """A `TensorSource` of names and shapes, 16 bits a number, all zero and nowhere."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def names(self) -> list[str]:
        return list(self._shapes)

    def info(self, name: str) -> TensorInfo:
        shape = self._shapes[name]
        return TensorInfo("F16", shape, 2 * int(np.prod(shape)))

    def read(self, name: str) -> Packed:
        shape = self._shapes[name]
        rows = int(np.prod(shape[:-1]))
        return Packed(np.broadcast_to(np.uint8(0), (rows, 2 * shape[-1])), "F16", shape)

    def release(self) -> None:
        pass


def on_meta(model_type: str) -> PreTrainedModel:
    """HF's class with the published config, on the device that holds nothing."""
    kind = CONFIG_MAPPING[model_type]
    config = kind.from_dict(json.loads(json.dumps(COUNTED[model_type].config)))
    with torch.device("meta"):
        return MODEL_FOR_CAUSAL_LM_MAPPING[kind](config)


def checkpoint(model_type: str, hf: PreTrainedModel, folder: Path) -> Checkpoint:
    """The checkpoint that HF would publish: the config and the names of its files."""
    path = folder / "config.json"
    path.write_text(json.dumps({**COUNTED[model_type].config, "model_type": model_type}))
    arch, config, _ = read_config(path)
    tied = hf.config.tie_word_embeddings
    state = {n: t for n, t in hf.state_dict().items() if not (tied and n == "lm_head.weight")}
    shapes = {n: tuple(t.shape) for n, t in revert_weight_conversion(hf, state).items()}
    return Checkpoint(
        ref=str(folder),
        path=folder,
        kind="safetensors",
        arch=arch,
        config=config,
        generation={},
        source=Names(shapes),
        tokenizer_config={},
        files={},
        gguf=None,
        notes=(),
    )


UNKNOWN = {"gemma4_text"}  # no published config is known here well enough to be written down


def test_every_family_has_a_published_config() -> None:
    exact = {str(row.config["model_type"]) for row in LARGE}  # tests/test_published.py counts them
    missing = sorted(set(ARCHITECTURES) - set(COUNTED) - exact - UNKNOWN)
    rows = "\n".join(
        f'    "{m}": Counted("owner/checkpoint", <billions of parameters>, _sizes(...)),'
        for m in missing
    )
    assert not missing, (
        "add to COUNTED in tests/counted.py the config.json of one known checkpoint of each "
        f"new family:\n{rows}"
    )
    extra = sorted(set(COUNTED) - set(ARCHITECTURES))
    assert not extra, f"tests/counted.py has rows of no family: {extra}"


@pytest.mark.parametrize("model_type", [m for m in ARCHITECTURES if m in COUNTED])
def test_parameters_are_those_that_are_published(model_type: str, tmp_path: Path) -> None:
    """Every tensor of HF's class has a place here, and none is missing; no key goes unread."""
    row, hf = COUNTED[model_type], on_meta(model_type)
    model, _ = plan_model(checkpoint(model_type, hf, tmp_path), "f16")
    assert model.n_parameters == sum(p.numel() for p in hf.parameters())
    assert not [note for note in model.notes if "nothing reads" in note]
    assert len(model.blocks) == hf.config.num_hidden_layers
    if row.billions is not None:
        said = f"{row.billions:.3g}"
        assert f"{model.n_parameters / 1e9:.3g}" == said, model.n_parameters
