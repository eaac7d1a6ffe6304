"""Every row of tests/archs through `verify`'s own path: each layer alone, in all of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.models import build_model
from rbee_worker.ops.reference import ReferenceOps
from rbee_worker.verify.compare import compare
from rbee_worker.verify.oracle import hf_trace, load_oracle
from tests.archs import ARCHS, Arch, oracle, write_checkpoint, write_gguf
from tests.prompts import random_prompt

TOKENS = random_prompt(70)


def check(path: Path, arch: Arch) -> None:
    ckpt = open_checkpoint(str(path))
    model = build_model(ckpt, ReferenceOps("cpu", "f32"))
    found = compare(model, hf_trace(load_oracle(ckpt).model, TOKENS), TOKENS)
    assert found.ok, found
    assert len(found.steps) == len(model.blocks) + 2


@pytest.mark.parametrize("arch", ARCHS, ids=[a.id for a in ARCHS])
def test_every_layer_of_every_file(arch: Arch, tmp_path: Path) -> None:
    check(write_checkpoint(arch, tmp_path / arch.id), arch)
    if arch.gguf_arch is not None:
        check(write_gguf(arch, oracle(arch), tmp_path / f"{arch.id}.gguf"), arch)
