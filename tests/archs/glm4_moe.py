"""GLM-4.5: half of each head rotates, biases, norms of each head or none, V3's mixture."""

from __future__ import annotations

import gguf
import transformers

from tests.archs import small_experts
from tests.archs.base import Arch, configured, rope
from tests.archs.latent import stacked
from tests.archs.small_experts import ChoiceBiases

C = transformers.Glm4MoeConfig
A = gguf.MODEL_ARCH.GLM4_MOE


class Biased(ChoiceBiases, transformers.Glm4MoeForCausalLM):
    """With biases that matter for choosing experts."""


EXPERTS = {**small_experts.EXPERTS, "n_shared_experts": 1}
KEYS = {
    **small_experts.KEYS,
    "expert_shared_count": 1,
    "rope.freq_base": 1e6,
    "rope.dimension_count": 8,
}
HALF = {**rope("default", 1e6), "partial_rotary_factor": 0.5}

ARCHS: tuple[Arch, ...] = (
    Arch(
        "glm4-moe",
        Biased,
        configured(
            C, **EXPERTS, head_dim=16, attention_bias=True, use_qk_norm=True, rope_parameters=HALF
        ),
        A,
        stacked,
        {**KEYS, "attention.key_length": 16, "attention.value_length": 16},
    ),
    Arch(
        "glm4-moe-groups",
        Biased,
        configured(
            C,
            **{**EXPERTS, "n_shared_experts": 2, "first_k_dense_replace": 2},
            head_dim=32,
            n_group=4,
            topk_group=2,
            norm_topk_prob=False,
            rope_parameters=HALF,
        ),
    ),
)
