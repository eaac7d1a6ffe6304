"""dots.llm1: norms of each head, DeepSeek V3's mixture, a window in later layers."""

from __future__ import annotations

import gguf
import transformers

from tests.archs import small_experts
from tests.archs.base import Arch, configured, rope
from tests.archs.latent import stacked
from tests.archs.small_experts import EXPERTS, ChoiceBiases

C = transformers.Dots1Config
A = gguf.MODEL_ARCH.DOTS1


class Biased(ChoiceBiases, transformers.Dots1ForCausalLM):
    """With biases that matter for choosing experts."""


KEYS = {**small_experts.KEYS, "rope.freq_base": 1e7}

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
