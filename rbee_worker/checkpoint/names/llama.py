"""Llama and the architectures with its tensors: pre-norm, q, k, v, o, gate, up, down."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.rows import (
    DENSE_KEYS,
    EMBEDDING_ROWS,
    MLP_ROWS,
    PRE_NORM_ROWS,
    QK_NORM_ROWS,
    ROPE_ROWS,
    TIED_WITHOUT_OUTPUT,
    Architecture,
    Key,
    attention_rows,
    constants,
)

_SHARED = EMBEDDING_ROWS + ROPE_ROWS + PRE_NORM_ROWS + MLP_ROWS
_PAIRS = _SHARED + attention_rows("half_split_q", "half_split_k")
_HALVES = _SHARED + attention_rows()
_BIASES = MappingProxyType(
    {"attention_bias": ("blk.0.attn_q.bias",), "mlp_bias": ("blk.0.ffn_gate.bias",)}
)
_SILU = constants(hidden_act="silu")

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        model_type="llama",
        keys=DENSE_KEYS,
        tensors=_PAIRS,
        variants=(("expert_count", "mixtral"), ("attention.sliding_window", "mistral")),
        constants=_SILU,
        present=_BIASES,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "qwen2": Architecture(
        model_type="qwen2",
        keys=DENSE_KEYS,
        tensors=_HALVES,
        constants=_SILU,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "qwen3": Architecture(
        model_type="qwen3",
        keys=DENSE_KEYS,
        tensors=_HALVES + QK_NORM_ROWS,
        constants=_SILU,
        present=MappingProxyType({"attention_bias": ("blk.0.attn_q.bias",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "smollm3": Architecture(
        model_type="smollm3",
        keys=DENSE_KEYS,
        tensors=_PAIRS,
        constants=_SILU,
        present=_BIASES,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "granite": Architecture(
        model_type="granite",
        keys=(
            *DENSE_KEYS,
            Key("attention.scale", "attention_multiplier", "number", required=True),
            Key("embedding_scale", "embedding_multiplier", "number", required=True),
            Key("residual_scale", "residual_multiplier", "number", required=True),
            Key("logit_scale", "logits_scaling", "number", required=True),
        ),
        tensors=_PAIRS,
        constants=_SILU,
        present=_BIASES,
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
