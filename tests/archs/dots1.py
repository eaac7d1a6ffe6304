"""dots.llm1: norms of each head, DeepSeek V3's mixture, a window in later layers."""

from __future__ import annotations

import gguf
import torch
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, configured, rope
from tests.archs.latent import stacked

C = transformers.Dots1Config
A = gguf.MODEL_ARCH.DOTS1


class Biased(transformers.Dots1ForCausalLM):
    """With biases that matter for choosing experts: HF begins with zeros."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        for name, bias in self.named_buffers():
            if name.endswith("e_score_correction_bias"):
                bias.copy_(torch.randn_like(bias) * 0.3)


EXPERTS = {
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
}
KEYS = {
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_shared_count": 2,
    "expert_feed_forward_length": 32,
    "expert_weights_scale": 2.5,
    "expert_weights_norm": True,
    "expert_gating_func": 2,
    "leading_dense_block_count": 1,
    "rope.freq_base": 1e7,
}

ARCHS: tuple[Arch, ...] = (
    Arch(
        "dots1",
        Biased,
        configured(C, **EXPERTS, norm_topk_prob=True, rope_parameters=rope("default", 1e7)),
        A,
        stacked,
        KEYS,
    ),
    Arch(
        "dots1-groups-window",
        Biased,
        configured(
            C,
            **{**EXPERTS, "first_k_dense_replace": 0},
            n_group=4,
            topk_group=2,
            sliding_window=24,
            max_window_layers=1,
            attention_bias=True,
            tie_word_embeddings=True,
        ),
    ),
)
