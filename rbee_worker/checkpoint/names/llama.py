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
    Row,
    attention_rows,
    constants,
    expert_rows,
    single_expert_rows,
)

_SHARED = EMBEDDING_ROWS + ROPE_ROWS + PRE_NORM_ROWS + MLP_ROWS
_PAIRS = _SHARED + attention_rows("half_split_q", "half_split_k")
_HALVES = _SHARED + attention_rows()
_BIASES = MappingProxyType(
    {"attention_bias": ("blk.0.attn_q.bias",), "mlp_bias": ("blk.0.ffn_gate.bias",)}
)
_LOCAL_EXPERTS = (
    Key("expert_count", "num_local_experts", "count"),
    Key("expert_used_count", "num_experts_per_tok", "count"),
)
_GRANITE_KEYS = (
    *DENSE_KEYS,
    Key("attention.scale", "attention_multiplier", "number", required=True),
    Key("embedding_scale", "embedding_multiplier", "number", required=True),
    Key("residual_scale", "residual_multiplier", "number", required=True),
    Key("logit_scale", "logits_scaling", "number", required=True),
)
_QWEN_MOE_KEYS = (
    *DENSE_KEYS,
    Key("expert_count", "num_experts", "count", required=True),
    Key("expert_used_count", "num_experts_per_tok", "count", required=True),
    Key("expert_feed_forward_length", "moe_intermediate_size", "count", required=True),
    Key("expert_shared_feed_forward_length", "shared_expert_intermediate_size", "count"),
)
_QWEN_EXPERTS = expert_rows("mlp.gate", "mlp.experts", ("gate_proj", "up_proj", "down_proj"))
_SILU = constants(hidden_act="silu")

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        model_type="llama",
        keys=DENSE_KEYS + _LOCAL_EXPERTS,
        tensors=(
            *_PAIRS,
            *expert_rows("block_sparse_moe.gate", "block_sparse_moe.experts", ("w1", "w3", "w2")),
            *single_expert_rows("block_sparse_moe.experts", ("w1", "w3", "w2")),
        ),
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
    "qwen": Architecture(
        model_type="qwen2",
        keys=(
            *(key for key in DENSE_KEYS if key.hf != "intermediate_size"),
            Key("feed_forward_length", "intermediate_size", "twice", required=True),
        ),
        tensors=(
            *_HALVES,
            *(
                Row(f"blk.{{}}.attn_qkv.{kind}", f"model.layers.{{}}.self_attn.qkv_proj.{kind}")
                for kind in ("weight", "bias")
            ),
        ),
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
        keys=_GRANITE_KEYS,
        tensors=_PAIRS,
        constants=_SILU,
        present=_BIASES,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "granitemoe": Architecture(
        model_type="granitemoe",
        keys=(
            *_GRANITE_KEYS,
            *_LOCAL_EXPERTS,
            Key("expert_shared_feed_forward_length", "shared_intermediate_size", "count"),
        ),
        variants=(("expert_shared_feed_forward_length", "granitemoeshared"),),
        tensors=(
            *(row for row in _PAIRS if row not in MLP_ROWS),
            *expert_rows(
                "block_sparse_moe.router.layer",
                "block_sparse_moe.experts",
                ("gate_proj", "up_proj", "down_proj"),
            ),
            Row("blk.{}.ffn_gate_shexp.weight", "model.layers.{}.shared_mlp.gate_proj.weight"),
            Row("blk.{}.ffn_up_shexp.weight", "model.layers.{}.shared_mlp.up_proj.weight"),
            Row("blk.{}.ffn_down_shexp.weight", "model.layers.{}.shared_mlp.output_linear.weight"),
        ),
        constants=_SILU,
        present=MappingProxyType({"attention_bias": ("blk.0.attn_q.bias",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "qwen2moe": Architecture(
        model_type="qwen2_moe",
        keys=_QWEN_MOE_KEYS,
        tensors=(
            *_HALVES,
            *_QWEN_EXPERTS,
            *(
                Row(
                    f"blk.{{}}.ffn_{part}_shexp.weight",
                    f"model.layers.{{}}.mlp.shared_expert.{part}_proj.weight",
                )
                for part in ("gate", "up", "down")
            ),
            Row(
                "blk.{}.ffn_gate_inp_shexp.weight",
                "model.layers.{}.mlp.shared_expert_gate.weight",
                "row",
            ),
        ),
        constants=constants(hidden_act="silu", norm_topk_prob=False),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "qwen3moe": Architecture(
        model_type="qwen3_moe",
        keys=_QWEN_MOE_KEYS,
        tensors=_HALVES + QK_NORM_ROWS + _QWEN_EXPERTS,
        constants=constants(hidden_act="silu", norm_topk_prob=True),
        present=MappingProxyType({"attention_bias": ("blk.0.attn_q.bias",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
