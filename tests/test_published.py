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
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.formats import Packed, TensorInfo
from rbee_worker.checkpoint.hf_config import read_config
from rbee_worker.models import ARCHITECTURES
from rbee_worker.verify.oracle import own_models
from tests.outlines import planned_model
from tests.published import PUBLISHED, Published


class Names:
    """A `TensorSource` of names and shapes, in bfloat16, all zero and nowhere."""

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
        return Packed(np.broadcast_to(np.uint8(0), (rows, 2 * shape[-1])), "BF16", shape)

    def release(self) -> None:
        pass


def on_meta(folder: Path) -> PreTrainedModel:
    """HF's class with the config of a folder, on the device that holds nothing."""
    own_models()  # transformers knows them too from now on
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.from_pretrained(folder)
        )


def checkpoint(row: Published, hf: PreTrainedModel, folder: Path) -> Checkpoint:
    """The checkpoint that HF would publish: the config and the names of its files."""
    arch, config, _ = read_config(folder / "config.json")
    tied = set(hf.all_tied_weights_keys)
    state = {n: t for n, t in hf.state_dict().items() if n not in tied}
    shapes = {n: tuple(t.shape) for n, t in revert_weight_conversion(hf, state).items()}
    return Checkpoint(
        ref=row.name,
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


def test_every_family_has_a_published_config() -> None:
    known = {row.model_type for row in PUBLISHED}
    missing = sorted(set(ARCHITECTURES) - known)
    rows = "\n".join(
        f'    Published("owner/checkpoint", decoder("{m}", ...), billions=...),' for m in missing
    )
    assert not missing, (
        "add to a module of tests/published the config.json of one known checkpoint of each new "
        f"family:\n{rows}"
    )
    extra = sorted(known - set(ARCHITECTURES))
    assert not extra, f"tests/published has rows of no family: {extra}"
    assert len({row.name for row in PUBLISHED}) == len(PUBLISHED)


@pytest.mark.parametrize("row", PUBLISHED, ids=[row.name for row in PUBLISHED])
def test_a_published_config(row: Published, tmp_path: Path) -> None:
    """Every tensor of HF's class has a place here, and none is missing; no key goes unread; there
    are as many parameters as are stated."""
    (tmp_path / "config.json").write_text(json.dumps(row.config))
    hf = on_meta(tmp_path)
    model, _ = planned_model(checkpoint(row, hf, tmp_path), "bf16")
    assert model.notes == ()
    tied = set(hf.all_tied_weights_keys)
    theirs = sum(t.numel() for n, t in hf.state_dict().items() if n not in tied)
    assert model.n_parameters == theirs
    assert len(model.blocks) == hf.config.num_hidden_layers
    if row.parameters is not None:
        assert model.n_parameters == row.parameters
    if row.billions is not None:
        assert f"{model.n_parameters / 1e9:.3g}" == f"{row.billions:.3g}", model.n_parameters
