"""Qwen 2, 2.5 and 3."""

from __future__ import annotations

import gguf
import transformers

from tests.archs.base import Arch, configured, rope

Q2, C2, G2 = transformers.Qwen2ForCausalLM, transformers.Qwen2Config, gguf.MODEL_ARCH.QWEN2
Q3, C3, G3 = transformers.Qwen3ForCausalLM, transformers.Qwen3Config, gguf.MODEL_ARCH.QWEN3
MILLION = rope("default", 1e6)
BASE = {"rope.freq_base": 1e6}
YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 32,
}

ARCHS: tuple[Arch, ...] = (
    Arch("qwen2", Q2, configured(C2, rope_parameters=MILLION), G2, metadata=BASE),
    Arch(
        "qwen2-tied-yarn",
        Q2,
        configured(
            C2,
            rope_parameters=rope("yarn", 1e6, factor=4.0, original_max_position_embeddings=32),
            tie_word_embeddings=True,
        ),
        G2,
        metadata=BASE | YARN,
    ),
    # The first layer sees all, the others 24 tokens.
    Arch(
        "qwen2-window",
        Q2,
        configured(C2, use_sliding_window=True, sliding_window=24, max_window_layers=1),
    ),
    Arch(
        "qwen3",
        Q3,
        configured(C3, head_dim=32, rope_parameters=MILLION, tie_word_embeddings=True),
        G3,
        metadata=BASE,
    ),
    Arch(
        "qwen3-bias-window",
        Q3,
        configured(
            C3,
            head_dim=16,
            attention_bias=True,
            use_sliding_window=True,
            sliding_window=24,
            max_window_layers=1,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
    ),
)
