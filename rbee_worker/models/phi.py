"""Phi-1, Phi-1.5 and Phi-2: attention and MLP in parallel, layer norms, biases everywhere.

model_type: phi (Gunasekar et al. 2023; Li et al. 2023). A part of each head rotates.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.models import biased
from rbee_worker.models.base import Decoder
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(biased.Config):
    """Phi's own value."""

    hidden_act: str = "gelu_new"


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    return biased.build_phi(c, w)
