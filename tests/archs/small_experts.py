"""What the families with DeepSeek V3's mixture share: its biases, config keys, and keys of GGUF
files."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel


class ChoiceBiases(PreTrainedModel):
    """Before a class of HF's: with biases that matter for choosing experts; HF begins with
    zeros."""

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
}
