"""`verify` of the cpu backend: every row of tests/archs, each layer alone; what rounding does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from click.exceptions import Exit
from safetensors.torch import load_file, save_file

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.cli.app import app
from rbee_worker.config import Settings
from rbee_worker.models import build_model
from rbee_worker.ops.backends import backend
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.backend.stepwise import Stepwise
from rbee_worker.ops.cpu.backend.warm import recording_shape
from rbee_worker.verify.compare import compare
from rbee_worker.verify.hf_trace import hf_trace
from rbee_worker.verify.oracle import load_oracle
from rbee_worker.verify.whole import trace, whole_batch
from tests import tiny
from tests.archs import ARCHS, Arch, oracle, write_gguf, write_safetensors
from tests.archs.measure import TOKENS, files

pytestmark = pytest.mark.kernels

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RBEE_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        try:
            code = app(["verify", *map(str, args), "--backend", "cpu"], standalone_mode=False)
        except Exit as e:
            code = e.exit_code
        said = capsys.readouterr()
        return code or 0, said.out, said.err

    return call


def recorded(path: Path, **options: Any) -> CpuModel:
    settings = Settings(model=str(path), backend="cpu", threads=1, **options)
    ops: Any = backend("cpu").ops(settings, "f32", weight_bytes=1 << 26, progress=lambda *_: None)
    shape = recording_shape(settings, "f32", len(TOKENS))
    return CpuModel(build_model(open_checkpoint(str(path)), ops), ops, shape)


@pytest.mark.parametrize("arch", ARCHS, ids=[a.id for a in ARCHS])
def test_every_layer_of_every_file(arch: Arch, tmp_path: Path) -> None:
    """Without rounding as near as the reference is; and piece by piece the whole, to the bit."""
    for kind, path in files(arch, tmp_path).items():
        model = recorded(path, exact_activations=True)
        pieces = Stepwise(model)
        want = hf_trace(load_oracle(open_checkpoint(str(path))).model, TOKENS)
        found = compare(pieces, want, TOKENS)
        assert found.ok, (arch.id, kind, found)
        assert len(found.steps) == arch.config().num_hidden_layers + 2
        whole = model.head(model.hidden(whole_batch(pieces, TOKENS)).copy())
        assert np.array_equal(trace(pieces, TOKENS).logits, whole)


def test_rounded_activations_have_their_own_tolerance(run: Run, tmp_path: Path) -> None:
    """8 bits: an error of about a hundredth a layer, which a float32 comparison would refuse. The
    last layer's maps take 16."""
    arch = next(a for a in ARCHS if a.id == "llama")
    quant = gguf.GGMLQuantizationType.Q8_0
    path = write_gguf(arch, oracle(arch), tmp_path / "model.gguf", quant)
    code, out, _ = run(path, "--json")
    found = json.loads(out)
    assert (code, found["backend"], found["activations"]) == (0, "cpu", "i8")
    assert found["tolerance"] == 0.1
    *layers, last = [step["alone"] for step in found["steps"][1:-1]]
    assert all(1e-4 < error < 0.03 for error in layers)
    assert 1e-6 < last < 1e-4
    assert run(path, "--tolerance", "1e-4")[0] == 1
    code, out, _ = run(path, "--exact-activations", "--json")
    found = json.loads(out)
    assert (code, found["activations"], found["tolerance"]) == (0, "f32", 1e-4)
    code, out, _ = run(path)
    assert "activations in 8 bits" in out
    assert "--exact-activations compares within 0.0001" in out


def test_a_broken_weight_is_found(run: Run, tmp_path: Path) -> None:
    good = tiny.write_safetensors(tmp_path / "good")
    bad = tiny.write_safetensors(tmp_path / "bad") / "model.safetensors"
    tensors = load_file(bad)
    tensors["model.layers.1.self_attn.v_proj.weight"] *= 1.01
    save_file(tensors, bad, metadata={"format": "pt"})
    code, out, _ = run(bad.parent, "--against", good)
    assert code == 1
    assert "layer 1 is the first that differs" in out
    assert "by cpu, 70 tokens" in out


def test_it_computes_in_float32_only(run: Run, tmp_path: Path) -> None:
    code, _, err = run(tiny.write_safetensors(tmp_path / "model"), "--dtype", "bf16")
    assert code == 2
    assert "computes in f32" in err


def test_bf16_activations_have_the_tolerance_of_bf16(run: Run, tmp_path: Path) -> None:
    """Rounded once more than the weights are, 8 bits of mantissa: far from float32, near enough."""
    arch = next(a for a in ARCHS if a.id == "llama")
    short = copy.deepcopy(oracle(arch)).to(torch.bfloat16)  # other tests have the same oracle
    path = write_safetensors(short, tmp_path)
    code, out, _ = run(path, "--bf16-activations", "--json")
    found = json.loads(out)
    assert (code, found["activations"], found["tolerance"]) == (0, "bf16", 0.05)
    assert all(1e-4 < step["alone"] < 0.01 for step in found["steps"][1:-1])
    code, out, _ = run(path, "--bf16-activations")
    assert "activations in bf16" in out
    assert run(path, "--json")[0] == 0
