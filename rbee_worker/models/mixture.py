"""Llama-shaped families with a mixture of experts.

model_type: mixtral (Jiang et al. 2024), qwen2_moe (with a gated expert that all tokens share; Qwen
2024), qwen3_moe (without one; 2025). GGUF files have one tensor each for the gate, up and down of
all experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbee_worker.layers.moe import MoE
from rbee_worker.models import parts, prenorm, qwen_experts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import FULL, SLIDING, MixedConfig, WindowConfig
from rbee_worker.models.experts import gated_experts, plain_routing
from rbee_worker.models.layer_plan import LayerPlan
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Mixtral(WindowConfig, prenorm.Config):
    """Mixtral's own keys; an expert is intermediate_size wide."""

    num_key_value_heads: int = 8
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1e6
    num_local_experts: int = 8
    num_experts_per_tok: int = 2


@dataclass(frozen=True, kw_only=True)
class QwenExperts(qwen_experts.Config):
    """The keys that Qwen 2 and 3 have besides."""

    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_position_embeddings: int = 32768

    @property
    def window(self) -> int | None:
        """The sliding window, in positions; None: no layer has one."""
        return self.sliding_window if self.use_sliding_window else None


@dataclass(frozen=True, kw_only=True)
class Qwen2Moe(QwenExperts, MixedConfig):
    """Qwen 2's own keys; every second one of the first `max_window_layers` layers has a window."""

    num_key_value_heads: int | None = 16
    num_experts: int = 60
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 1408
    shared_expert_intermediate_size: int = 5632
    max_window_layers: int = 28
    qkv_bias: bool = True

    @property
    def pattern(self) -> Sequence[str]:
        first = 0 if self.window is None else self.max_window_layers
        count = self.num_hidden_layers
        return [SLIDING if i < first and i % 2 == 0 else FULL for i in range(count)]


@dataclass(frozen=True, kw_only=True)
class Qwen3Moe(QwenExperts, WindowConfig):
    """Qwen 3's own keys."""

    num_key_value_heads: int = 4
    num_experts: int = 128
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 768
    attention_bias: bool = False


def build_mixtral(c: Mixtral, w: Weights) -> Decoder:
    """mixtral. Raises CheckpointError, UnsupportedModel."""
    count = c.num_local_experts
    routing = plain_routing(count, c.num_experts_per_tok, normalise=True)

    def feed_forward(at: Weights, layer: LayerPlan) -> MoE:
        moe = at.sub("block_sparse_moe")
        experts = gated_experts(
            moe.sub("experts"), c, count, c.intermediate_size, ("w1", "w3", "w2")
        )
        return MoE(w.ops, moe.linear("gate", c.hidden_size, count), routing, experts)

    return prenorm.build(c, w, feed_forward)


def build_qwen2(c: Qwen2Moe, w: Weights) -> Decoder:
    """qwen2_moe. Raises CheckpointError, UnsupportedModel."""
    shared = c.shared_expert_intermediate_size
    return prenorm.build(c, w, qwen_experts.feed_forward(c, shared), bias=c.qkv_bias)


def build_qwen3(c: Qwen3Moe, w: Weights) -> Decoder:
    """qwen3_moe. Raises CheckpointError, UnsupportedModel."""
    biases, feed_forward = c.attention_bias, qwen_experts.feed_forward(c, 0)
    return prenorm.build(c, w, feed_forward, bias=biases, out_bias=biases, qk_norm=parts.head_norms)
