"""OLMoE: norms over all of q and k, small experts."""

from __future__ import annotations

import gguf
import transformers

from tests.archs.base import Arch, configured
from tests.archs.mixture import halves

M, C = transformers.OlmoeForCausalLM, transformers.OlmoeConfig
A = gguf.MODEL_ARCH.OLMOE
FEW = {"num_experts": 6, "num_experts_per_tok": 3}
KEYS = {"expert_count": 6, "expert_used_count": 3}

ARCHS: tuple[Arch, ...] = (
    Arch("olmoe", M, configured(C, **FEW), A, halves, KEYS),
    Arch(
        "olmoe-bias-tied",
        M,
        configured(C, **FEW, norm_topk_prob=True, attention_bias=True, tie_word_embeddings=True),
    ),
)
