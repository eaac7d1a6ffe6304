"""A draft model for a tiny one: its own weights and some noise, so that many drafts are right."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rbee_worker.engine.draft_costs import Costs, Ratios

NOISE = 0.02
CHEAP = Ratios(row=0.05, draft=0.1)  # so that many tokens are drafted


def noisy(target: Path, folder: Path, noise: float = NOISE, seed: int = 1) -> Path:
    """A copy of a safetensors directory with other weights."""
    shutil.copytree(target, folder)
    dice = np.random.default_rng(seed)
    [file] = folder.glob("*.safetensors")
    tensors = {
        name: (values + noise * dice.standard_normal(values.shape)).astype(values.dtype)
        for name, values in load_file(file).items()
    }
    save_file(tensors, file)
    return folder


def cheap(patch: pytest.MonkeyPatch, ratios: Ratios = CHEAP) -> None:
    """Let drafts cost this, whatever was measured: what is drafted then depends on no clock."""
    patch.setattr(Costs, "ratios", lambda self, sequences: ratios)
