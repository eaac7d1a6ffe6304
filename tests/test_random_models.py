"""Models of random weights: sizes of published models, values that can be computed with."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.formats import DECODABLE
from rbee_worker.checkpoint.random_blocks import RANDOM, random_rows
from rbee_worker.config import Settings
from rbee_worker.errors import UnsupportedModel, UsageError
from rbee_worker.models import ARCHITECTURES, plan_model
from rbee_worker.models.random import open_model, random_checkpoint, reference
from rbee_worker.models.shapes import SHAPES
from rbee_worker.ops.backends import backend
from rbee_worker.ops.plan import PlanOps
from tests import encoders, pairs, seeing
from tests.archs import ARCHS, write_checkpoint
from tests.outlines import read_bytes

# As the models' own pages count them, tied embeddings once.
PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "llama-1b": 1_235_814_400,
    "llama-3b": 3_212_749_824,
    "llama-8b": 8_030_261_248,
    "llama-70b": 70_553_706_496,
    "qwen3-30b-a3b": 30_532_122_624,
    "mamba-130m": 129_135_360,
    "mamba2-780m": 780_161_280,
    "granite4-h-1b": 1_461_538_368,
    "lfm2-1.2b": 1_170_340_608,
    "rwkv6-1.6b": 1_599_873_024,
    "rwkv7-191m": 191_034_624,
}


@pytest.mark.parametrize(("shape", "parameters"), PUBLISHED.items())
def test_a_known_shape_has_the_published_number_of_parameters(shape: str, parameters: int) -> None:
    held = backend("cpu").plan_ops("f32")
    model = plan_model(random_checkpoint(shape), held)
    assert model.n_parameters == parameters
    assert held.held_bytes["bf16"] >= 2 * parameters * 0.99


def test_of_experts_only_the_chosen_ones_are_read() -> None:
    """Qwen3-30B-A3B: 8 of 128, by hand from its config."""
    ckpt, settings = random_checkpoint("qwen3-30b-a3b"), Settings(backend="cpu")
    layer = 2048 * 128 * (32 + 4 + 4) + 32 * 128 * 2048 + 128 * 2048 + 8 * 3 * 768 * 2048
    numbers = 48 * layer + 151936 * 2048
    assert read_bytes(ckpt, settings) == 2 * numbers
    assert read_bytes(ckpt, Settings(backend="reference", dtype="f32")) == 4 * numbers


@pytest.mark.parametrize("name", RANDOM)
def test_random_rows_are_finite_and_of_a_models_size(name: str) -> None:
    data = random_rows(np.random.default_rng(1), name, 16, 512)
    values = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name])
    assert values.shape == (16, 512)
    assert np.isfinite(values).all()
    assert 0.008 < values.std() < 0.05
    assert abs(values.mean()) < 0.02
    assert len(np.unique(data, axis=0)) == 16


def test_every_block_format_can_be_random() -> None:
    assert DECODABLE - set(RANDOM) == {"F64", "F8_B128"}  # nobody's weights; made by us alone


def test_a_tensor_is_the_same_each_time_and_not_the_others() -> None:
    source = random_checkpoint("smollm2-135m", "q8_0").source
    first, second = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    before = source.read(first).data.copy()
    source.release()
    assert np.array_equal(source.read(first).data, before)
    assert not np.array_equal(source.read(second).data, before)
    assert source.info(first).nbytes == before.nbytes == 1536 * 576 // 32 * 34


def test_rows_that_fill_no_blocks_are_said_to_be_in_bf16() -> None:
    ckpt = random_checkpoint("smollm2-135m", "q4_k")
    assert ckpt.source.info("model.layers.0.mlp.up_proj.weight").format == "BF16"  # 576 wide
    assert ckpt.source.info("model.layers.0.mlp.down_proj.weight").format == "Q4_K"
    assert any("bf16" in note for note in ckpt.notes)


def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"llama-9b.*neither"):
        random_checkpoint("llama-9b")
    with pytest.raises(UsageError, match="format 'q9'"):
        random_checkpoint("llama-1b", "q9")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such"}))
    with pytest.raises(UnsupportedModel, match="no-such"):
        random_checkpoint(str(tmp_path))


def test_a_directory_will_do(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(SHAPES["smollm2-135m"])))
    found, named = random_checkpoint(str(tmp_path)), random_checkpoint("smollm2-135m")
    assert found.config == named.config
    assert found.source.names() == named.source.names()


def every_row() -> dict[str, Any]:
    """What writes a config.json, for every kind of model that is supported."""
    found: dict[str, Any] = {
        row.config().model_type: partial(write_checkpoint, row) for row in ARCHS
    }
    for row in encoders.ROWS:
        kind = row.config().model_type
        found[f"{kind} encoder" if kind in ARCHITECTURES else kind] = partial(encoders.write, row)
    found |= {row.type: partial(pairs.write, row.id) for row in pairs.ROWS}
    return found | {row.type: partial(seeing.write, row.id) for row in seeing.ROWS}


def kinds() -> list[Any]:
    """Decoders take a quarter of a minute; the random weights of some are used in CI elsewhere."""
    return [
        pytest.param(kind, marks=pytest.mark.long if kind in ARCHITECTURES else pytest.mark.slow)
        for kind in every_row()
    ]


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_model_can_be_random(kind: str, tmp_path: Path) -> None:
    """Its config alone has the tensors of its files, but for those that files leave out."""
    folder = every_row()[kind](tmp_path)
    ckpt = random_checkpoint(str(folder))
    model = plan_model(ckpt, PlanOps("f32"))
    real = plan_model(open_checkpoint(str(folder)), PlanOps("f32"))
    assert model.purpose == real.purpose
    assert len(model.blocks) == len(real.blocks)
    assert [g.spec for g in model.groups] == [g.spec for g in real.groups]
    assert (model.tower is None) == (real.tower is None)
    assert model.n_parameters == real.n_parameters


def test_a_reference_says_all() -> None:
    ckpt = open_model(reference("llama-1b", "q4_0"))
    assert ckpt.ref == "random:q4_0:llama-1b"
    assert ckpt.source.info("model.layers.3.self_attn.q_proj.weight").format == "Q4_0"
