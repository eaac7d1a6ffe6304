"""Llama and its many relatives: RMSNorm, rotary attention, gated MLP, pre-norm residuals.

model_type: llama (Touvron et al. 2023; Meta 2024), mistral (a sliding window; Jiang et al. 2023),
qwen2 (biases of q, k, v; Qwen 2024), qwen3 (norms of each head's q and k; Qwen 2025), smollm3
(layers without positions; HF 2025), granite (muP multipliers; IBM 2024), helium (rotary pairs are
adjacent columns; Kyutai 2025), seed_oss (biases of q, k, v and of the output map, each by a key;
ByteDance 2025).
GGUF files have Llama 3.1's frequency scaling as divisors in `rope_freqs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rbee_worker.layers.blocks import FeedForward
from rbee_worker.models import parts, prenorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import FULL, SLIDING, MixedConfig, WindowConfig, positive
from rbee_worker.models.layer_plan import LayerPlan, windowed_from
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(prenorm.Config):
    """Llama's own keys."""

    attention_bias: bool = False
    mlp_bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Mistral(WindowConfig, prenorm.Config):
    """Mistral's own values."""

    num_key_value_heads: int = 8
    max_position_embeddings: int = 131072
    sliding_window: int | None = 4096


@dataclass(frozen=True, kw_only=True)
class Qwen2(MixedConfig, prenorm.Config):
    """Qwen's own keys; layers before `max_window_layers` have no window."""

    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28

    @property
    def window(self) -> int | None:
        return self.sliding_window if self.use_sliding_window else None

    @property
    def pattern(self) -> Sequence[str]:
        count = self.num_hidden_layers
        return windowed_from(count if self.window is None else self.max_window_layers, count)


@dataclass(frozen=True, kw_only=True)
class Qwen3(Qwen2):
    """Qwen 3's own keys."""

    head_dim: int = 128
    attention_bias: bool = False


@dataclass(frozen=True, kw_only=True)
class SmolLM3(MixedConfig, Config):
    """SmolLM3's own keys; a 0 in no_rope_layers means that the layer has no positions."""

    num_key_value_heads: int | None = 4
    max_position_embeddings: int = 32768
    rope_theta: float = 2e6
    tie_word_embeddings: bool = True
    use_sliding_window: bool = False
    no_rope_layers: list[int] | None = None
    no_rope_layer_interval: int = 4
    max_window_layers: int | None = None  # published files have it; nothing reads it

    @property
    def window(self) -> int | None:
        return self.sliding_window if self.use_sliding_window else None

    @property
    def rotates(self) -> Sequence[object]:
        if self.no_rope_layers is not None:
            return self.no_rope_layers
        every = self.no_rope_layer_interval
        positive("config", no_rope_layer_interval=every)
        return [(i + 1) % every != 0 for i in range(self.num_hidden_layers)]

    @property
    def pattern(self) -> Sequence[str]:
        return [FULL if self.window is None or turns else SLIDING for turns in self.rotates]


@dataclass(frozen=True, kw_only=True)
class Granite(Config):
    """Granite's own keys."""

    embedding_multiplier: float = 1.0
    attention_multiplier: float | None = 1.0  # None means 1 / sqrt(head width)
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Helium(Config):
    """Helium's own values."""

    num_key_value_heads: int = 20
    head_dim: int = 128
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-8
    rope_theta: float = 1e5


@dataclass(frozen=True, kw_only=True)
class SeedOss(Config):
    """Seed-OSS's own keys."""

    num_key_value_heads: int | None = 8
    head_dim: int | None = 128
    max_position_embeddings: int = 524288
    attention_bias: bool = True
    attention_out_bias: bool = False


def build(c: Config, w: Weights) -> Decoder:
    """llama and smollm3. Raises CheckpointError, UnsupportedModel."""
    biases = c.attention_bias
    return prenorm.build(c, w, _mlp(c, bias=c.mlp_bias), bias=biases, out_bias=biases)


def build_mistral(c: Mistral, w: Weights) -> Decoder:
    """mistral. Raises CheckpointError, UnsupportedModel."""
    return prenorm.build(c, w, _mlp(c))


def build_qwen2(c: Qwen2, w: Weights) -> Decoder:
    """qwen2. Raises CheckpointError, UnsupportedModel."""
    return prenorm.build(c, w, _mlp(c), bias=True)


def build_qwen3(c: Qwen3, w: Weights) -> Decoder:
    """qwen3. Raises CheckpointError, UnsupportedModel."""
    biases = c.attention_bias
    return prenorm.build(c, w, _mlp(c), bias=biases, out_bias=biases, qk_norm=parts.head_norms)


def build_granite(c: Granite, w: Weights) -> Decoder:
    """granite. Raises CheckpointError, UnsupportedModel."""
    return prenorm.build(
        c,
        w,
        _mlp(c, bias=c.mlp_bias),
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        attention_scale=c.attention_multiplier,
        by=prenorm.multipliers(c.embedding_multiplier, c.residual_multiplier, c.logits_scaling),
    )


def build_helium(c: Helium, w: Weights) -> Decoder:
    """helium. Raises CheckpointError, UnsupportedModel."""
    # The output projection has no bias, whatever attention_bias says.
    return prenorm.build(c, w, _mlp(c, bias=c.mlp_bias), bias=c.attention_bias, interleaved=True)


def build_seed_oss(c: SeedOss, w: Weights) -> Decoder:
    """seed_oss. Raises CheckpointError, UnsupportedModel."""
    mlp = _mlp(c, bias=c.mlp_bias)
    return prenorm.build(c, w, mlp, bias=c.attention_bias, out_bias=c.attention_out_bias)


def _mlp(c: prenorm.Config, *, bias: bool = False) -> Callable[[Weights, LayerPlan], FeedForward]:
    return lambda at, layer: parts.gated_mlp(at.sub("mlp"), c, bias=bias)
