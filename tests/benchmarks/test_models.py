"""The files that are compared on: what is made of a small source, read back by other means."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks import models
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.models import plan_model
from rbee_worker.ops.backends import backend
from tests import tiny


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"dim": 256, "layers": 8, "ffn": 512, "heads": 4, "kv_heads": 2}
    monkeypatch.setattr(models, "WIDE", shape)
    monkeypatch.setattr(models, "VOCAB", tiny.VOCAB)


@pytest.mark.usefixtures("small")
def test_a_random_file_loads_and_decodes_to_sane_numbers(tmp_path: Path) -> None:
    source = tiny.write_gguf(tmp_path / "source.gguf")
    path = models.make(tmp_path / "made", "1b-Q4_K_M.gguf", source)
    reader = gguf.GGUFReader(path)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.isfinite(values).all()
        if values.ndim > 1:
            assert 0.005 < values.std() < 0.08, tensor.name
    model = plan_model(
        open_checkpoint(str(path)), backend("cpu").plan_ops("f32")
    )  # every name and shape
    assert len(model.blocks) == 8
    before = path.stat().st_mtime_ns
    assert models.make(tmp_path / "made", "1b-Q4_K_M.gguf", source) == path
    assert path.stat().st_mtime_ns == before  # what is there is not made again


@pytest.mark.usefixtures("small")
def test_the_mixture_is_llama_cpps() -> None:
    """llama.cpp: i < n / 8 or i >= 7 n / 8 or (i - n / 8) % 3 == 2, here of 8 layers."""
    more = [layer for layer in range(8) if models.q4_k_m("ffn_down", layer) == "Q6_K"]
    assert more == [0, 3, 6, 7]
    assert {models.q4_k_m("ffn_up", layer) for layer in range(8)} == {"Q4_K"}
    assert models.q4_k_m("token_embd", 0) == "Q6_K"


def test_safetensors_hold_the_same_values_under_hugging_faces_names(tmp_path: Path) -> None:
    source = tiny.write_gguf(tmp_path / "source.gguf")
    folder = models.make(tmp_path / "made", "smol-bf16", source)
    found = load_file(folder / "model.safetensors")
    want = tiny.tensors()
    assert set(found) == set(want)
    for name, values in want.items():
        assert torch.equal(found[name], torch.from_numpy(values).to(torch.bfloat16)), name
    assert open_checkpoint(str(folder)).config["num_key_value_heads"] == tiny.KV_HEADS
