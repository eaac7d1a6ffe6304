"""One row of the table through `verify`'s own path: how far from transformers, in each file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbee_worker.checkpoint import Checkpoint, open_checkpoint
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


def exact_logits(ckpt: Checkpoint) -> NDArray[np.float32]:
    """transformers' logits of the tokens, computed in float64: in float32 its own error of a few
    rows (a long recurrence, say) is larger than the bounds that kernels are held to."""
    model = load_oracle(ckpt).model
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # products in groups have no float64
    return hf_trace(model.double(), TOKENS).logits
