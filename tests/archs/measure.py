"""One row of the table through `verify`'s own path: how far from transformers, in each file."""

from __future__ import annotations

from pathlib import Path

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.models import build_model
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.ops.reference.stepwise import ReferenceStepwise
from rbee_worker.verify.compare import Comparison, compare
from rbee_worker.verify.hf_trace import hf_trace
from rbee_worker.verify.oracle import load_oracle
from tests.archs import Arch, oracle, write_checkpoint, write_gguf
from tests.prompts import random_prompt

TOKENS = random_prompt(70)
SAFETENSORS, GGUF = "safetensors", "GGUF"


def measured(arch: Arch, folder: Path) -> dict[str, Comparison]:
    """Every layer and the logits of 70 tokens, by the kind of file."""
    return {kind: compared(path) for kind, path in files(arch, folder).items()}


def files(arch: Arch, folder: Path) -> dict[str, Path]:
    """The row's files by kind."""
    paths = {SAFETENSORS: write_checkpoint(arch, folder / arch.id)}
    if arch.gguf_arch is not None:
        paths[GGUF] = write_gguf(arch, oracle(arch), folder / f"{arch.id}.gguf")
    return paths


def compared(path: Path) -> Comparison:
    """A file as `verify` compares it. Raises what it raises."""
    ckpt = open_checkpoint(str(path))
    model = build_model(ckpt, ReferenceOps("cpu", "f32"))
    return compare(ReferenceStepwise(model), hf_trace(load_oracle(ckpt).model, TOKENS), TOKENS)
