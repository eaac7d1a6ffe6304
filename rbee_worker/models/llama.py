"""Llama and its many relatives: RMSNorm, rotary attention, gated MLP, pre-norm residuals.

model_type: llama (Touvron et al. 2023; Meta 2024), mistral (a sliding window; Jiang et al. 2023),
qwen2 (biases of q, k, v; Qwen 2024), qwen3 (norms of each head's q and k; Qwen 2025), smollm3
(layers without positions; HF 2025), granite (multipliers after muP; IBM 2024), helium (rotary
pairs are neighbours; Kyutai 2025).
GGUF files carry Llama 3.1's frequency scaling as divisors in `rope_freqs`.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.models import parts, prenorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(prenorm.Config):
    """Llama's own keys."""

    mlp_bias: bool = False


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    return prenorm.build(c, w, lambda at, layer: parts.gated_mlp(at.sub("mlp"), c, bias=c.mlp_bias))
