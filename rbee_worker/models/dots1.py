"""dots.llm1: Llama's shape with norms of each head's q and k, and DeepSeek V3's mixture of experts.

model_type: dots1 (rednote-hilab 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbee_worker.errors import UnsupportedModel
from rbee_worker.models import parts, prenorm, small_experts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import MixedConfig
from rbee_worker.models.layer_plan import windowed_from
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(MixedConfig, small_experts.Config, prenorm.Config):
    """dots.llm1's own keys. Layers before `max_window_layers` have no window. scoring_func: the
    published files give the only kind of routing under V3's name for it."""

    num_key_value_heads: int | None = 32
    attention_bias: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 62
    scoring_func: str | None = None
    moe_layer_freq: int = 1

    @property
    def pattern(self) -> Sequence[str]:
        count = self.num_hidden_layers
        return windowed_from(count if self.window is None else self.max_window_layers, count)


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    if c.scoring_func not in (None, "noaux_tc", "sigmoid") or c.moe_layer_freq != 1:
        raise UnsupportedModel(
            f"config: scoring_func is {c.scoring_func!r}, moe_layer_freq {c.moe_layer_freq}.",
            fix="supported: noaux_tc or sigmoid, and 1.",
        )
    routing, biases = small_experts.routing(c, "sigmoid"), c.attention_bias
    return prenorm.build(
        c,
        w,
        lambda at, layer: small_experts.feed_forward(at, c, routing, layer),
        bias=biases,
        out_bias=biases,
        qk_norm=parts.head_norms,
    )
