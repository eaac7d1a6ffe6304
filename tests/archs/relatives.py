"""SmolLM3, Granite 3 and Helium: Llama with other values."""

from __future__ import annotations

import gguf
import transformers

from tests.archs.base import Arch, configured, permuted, rope

S, CS = transformers.SmolLM3ForCausalLM, transformers.SmolLM3Config
G, CG = transformers.GraniteForCausalLM, transformers.GraniteConfig
H, CH = transformers.HeliumForCausalLM, transformers.HeliumConfig
A = gguf.MODEL_ARCH

MUP = {
    "attention_multiplier": 0.1,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.4,
    "logits_scaling": 2.0,
}
MUP_KEYS = {
    "attention.scale": 0.1,
    "embedding_scale": 3.0,
    "residual_scale": 0.4,
    "logit_scale": 2.0,
}

ARCHS: tuple[Arch, ...] = (
    Arch(
        "smollm3",
        S,
        configured(CS, num_hidden_layers=5, rope_parameters=rope("default", 5e6)),
        A.SMOLLM3,
        permuted,
        {"rope.freq_base": 5e6},
    ),
    Arch(
        "smollm3-window",
        S,
        configured(
            CS,
            num_hidden_layers=4,
            no_rope_layers=[1, 0, 1, 0],
            use_sliding_window=True,
            sliding_window=24,
            tie_word_embeddings=False,
            attention_bias=True,
            mlp_bias=True,
        ),
    ),
    Arch("granite", G, configured(CG, **MUP), A.GRANITE, permuted, MUP_KEYS),
    Arch(
        "granite-tied-bias",
        G,
        configured(
            CG, **MUP | {"residual_multiplier": 1.0}, tie_word_embeddings=True, attention_bias=True
        ),
        A.GRANITE,
        permuted,
        MUP_KEYS | {"residual_scale": 1.0},
    ),
    Arch("helium", H, configured(CH, head_dim=16, num_key_value_heads=4)),
    Arch(
        "helium-gqa",
        H,
        configured(
            CH,
            head_dim=16,
            rope_parameters=rope("linear", 5e4, factor=2.0),
            mlp_bias=True,
        ),
    ),
)
