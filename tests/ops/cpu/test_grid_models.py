"""Whole models of weights on grids, and ternary ones: against HF on the gguf package's decoding."""

from __future__ import annotations

import random

import pytest
import torch

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.formats import FORMATS
from rbee_worker.config import Settings
from rbee_worker.models import build_model
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.reference.ops import ReferenceOps
from tests import tiny
from tests.driver import Driver
from tests.gguf_oracle import hf_llama
from tests.outlines import needed, planned

HELD_AS = {  # and the bytes of 256 values
    "IQ1_S": ("iq1", 114),
    "IQ1_M": ("iq1", 114),
    "IQ2_XXS": ("iq2", 114),
    "IQ2_XS": ("iq2", 114),
    "IQ2_S": ("iq2", 114),
    "IQ3_XXS": ("iq3_xxs", 138),
    "IQ3_S": ("iq3_s", 138),
    "TQ1_0": ("q2_k", 84),
    "TQ2_0": ("q2_k", 84),
}
MIXED = tuple(HELD_AS)  # in turn over 16 matrices
KEPT = 1e-5  # relative error of logits, float32 activations
ROUNDED = 0.02  # with activations of 8 and 16 bits


@pytest.fixture(scope="module")
def team():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    team = Team(Library(isa.choose()), 2)
    yield team
    team.close()
    torch.set_num_threads(before)


def error(got, want):
    return float((got - want).norm() / want.norm())


def logits(model, tokens):
    driver = Driver(model)
    return driver.feed([(driver.start(tokens), len(tokens))])[0]


def recorded(team, path, *, exact):
    ops = CpuOps(team._library, team, exact=exact)
    model = build_model(open_checkpoint(str(path)), ops)
    return CpuModel(model, ops, Shape(128, 8, 256, 16, "f32")), ops


@pytest.mark.parametrize("formats", [*((name,) for name in HELD_AS), MIXED], ids="+".join)
def test_logits(team, tmp_path, formats):
    path = tiny.write_packed_gguf(tmp_path / "m.gguf", formats)
    tokens = random.Random(0).choices(range(tiny.VOCAB), k=40)
    with torch.inference_mode():
        want = hf_llama(path)(torch.tensor([tokens])).logits[0]
    reference = logits(build_model(open_checkpoint(str(path)), ReferenceOps()), tokens)
    assert error(reference, want) < KEPT
    model, _ = recorded(team, path, exact=True)
    assert error(logits(model, tokens), want) < KEPT
    assert error(logits(recorded(team, path, exact=False)[0], tokens), want) < ROUNDED


def test_what_is_planned_is_what_is_held_and_compiled(team, tmp_path):
    path = tiny.write_packed_gguf(tmp_path / "m.gguf", MIXED)
    ckpt = open_checkpoint(str(path))
    plan = planned(ckpt)
    library = Library(isa.choose())
    alone = Team(library, 1)
    model, ops = recorded(alone, path, exact=False)
    ops.sampling(model.vocab_size)
    alone.close()
    assert sorted(library._kernels) == needed(ckpt, Settings(backend="cpu"), "f32")
    pieces = 64 * len(ckpt.source.names())  # each begins on a cache line
    vectors = plan.uses["F32", "f32"].held_bytes
    matrices = sum(plan.held_bytes.values()) - vectors
    assert matrices <= ops.arena.used <= matrices + pieces
    assert {file: held for file, held in plan.uses if file != "F32"} == {
        file: held for file, (held, _) in HELD_AS.items()
    }
    for (file, held), use in plan.uses.items():
        if file in MIXED[2:]:  # the first two have the vocabulary's rows, not whole groups of 16
            blocks = use.file_bytes // FORMATS[file].bytes
            assert use.held_bytes == blocks * HELD_AS[file][1], held
    assert sum(use.tensors for use in plan.uses.values()) == len(ckpt.source.names())
