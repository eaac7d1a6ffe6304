"""What is compiled before loading is what loading and running use: nothing more, nothing less."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.config import Settings
from rbee_worker.loading.common_models import COMMON, common_models
from rbee_worker.models import build_model
from rbee_worker.ops.cpu.backend import ops as ops_module
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.cpu.shared.forms import NATIVE, TILES
from tests import tiny
from tests.archs import ARCHS, oracle, write_gguf, write_safetensors
from tests.outlines import needed


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def used(path, kv):
    """The kernels of a model that is really loaded and recorded, and of its sampling."""
    library = Library(isa.choose())
    team = Team(library, 1)
    ops = CpuOps(library, team)
    model = CpuModel(build_model(open_checkpoint(str(path)), ops), ops, Shape(64, 8, 128, 16, kv))
    ops.sampling(model.vocab_size)
    team.close()
    return sorted(library._kernels)


@pytest.mark.parametrize("kv", ["f32", "f16"])
@pytest.mark.parametrize("arch", ARCHS, ids=[a.id for a in ARCHS])
def test_every_architecture(arch, kv, tmp_path):
    path = write_safetensors(oracle(arch), tmp_path)
    ckpt = open_checkpoint(str(path))
    assert needed(ckpt, Settings(backend="cpu"), kv) == used(path, kv)


def test_a_gguf(tmp_path):
    path = write_gguf(ARCHS[0], oracle(ARCHS[0]), tmp_path / "a.gguf")
    ckpt = open_checkpoint(str(path))
    assert needed(ckpt, Settings(backend="cpu"), "f16") == used(path, "f16")


def test_common_models_are_one_for_each_format():
    names = {c.ref: needed(c, Settings(backend="cpu"), "f16") for c in common_models()}
    for form in COMMON:
        assert f"linear.{form.lower()}" in names[f"common:{form}"]
        assert "attend.f16" in names[f"common:{form}"]


@pytest.mark.parametrize("ending", ["", NATIVE, TILES])
def test_only_bf16_weights_take_bf16_activations(monkeypatch, ending):
    """And only where that is asked for; the head takes float32."""
    monkeypatch.setattr(ops_module, "bf16_ending", lambda: ending)
    asked = Settings(backend="cpu", bf16_activations=True)
    rounded = {c.ref: needed(c, asked, "f16") for c in common_models()}
    product = f"linear.bf16-b16{ending}"
    extra = {product, "prepare.b16"}
    assert extra | {"linear.bf16"} <= set(rounded["common:BF16"])
    for ckpt in common_models():
        plain = set(needed(ckpt, Settings(backend="cpu"), "f16"))
        assert set(rounded[ckpt.ref]) - plain == (extra if ckpt.ref == "common:BF16" else set())


SCRIPT = """
import json, os, sys
from rbee_worker.config import parse
from rbee_worker.loading.load import load_engine
from rbee_worker.engine.messages import Submit
from rbee_worker.types import SamplingParams

told = []
settings = parse({"model": sys.argv[1], "backend": "cpu"}, os.environ)
engine, info = load_engine(settings, told.append)
engine.submit(Submit(seq="a", prompt_ids=(5, 6, 7), params=SamplingParams(max_tokens=3)))
steps = 0
while not engine.idle:
    engine.step()
    steps += 1
compiling = [t for t in told if t.stage == "compiling"]
print(json.dumps({
    "steps": steps,
    "compiling": [(t.layers_loaded, t.layers_total, t.item) for t in compiling],
    "heavy": sorted({"numba", "rbee_worker.ops.cpu.compiler.simd"} & sys.modules.keys()),
    "phases": list(info.load_s),
}))
"""


def test_an_engine_compiles_once_and_never_imports_a_compiler(tmp_path):
    """A process of its own, as in life: its memory holds no compiler, its second start no wait."""
    model = tiny.write_safetensors(tmp_path / "tiny")
    root = str(Path(__file__).parents[3])
    env = os.environ | {"PYTHONPATH": root, "RBEE_CACHE_DIR": str(tmp_path / "cache")}
    env |= {"RBEE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    runs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(model)],
            env=env, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        runs.append(json.loads(done.stdout))
    first, second = runs
    names = needed(open_checkpoint(str(model)), Settings(backend="cpu"), "f32")
    assert first["compiling"][0] == [0, len(names), ""]
    assert first["compiling"][-1][:2] == [len(names), len(names)]
    assert sorted(item for _, _, item in first["compiling"][1:]) == names
    assert second["compiling"] == []
    for run in runs:
        assert run["heavy"] == []
        assert run["steps"] >= 3
        assert "kernels" in run["phases"]
