"""Llama and the architectures with the same tensors: pre-norm, q, k, v, o, gate, up, down."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key
from rbee_worker.checkpoint.names.rows import (
    BIASED,
    DENSE_KEYS,
    EMBEDDING_ROWS,
    MLP_ROWS,
    MULTIPLIER_KEYS,
    NO_WINDOWS,
    PRE_NORM_ROWS,
    QK_NORM_ROWS,
    QWEN_MOE_KEYS,
    ROPE_ROWS,
    TIED_WITHOUT_OUTPUT,
    attention_rows,
    constants,
    expert_rows,
    layer_rows,
    norm_rows,
    rows,
    shared_expert_rows,
    single_expert_rows,
)

_SHARED = EMBEDDING_ROWS + ROPE_ROWS + PRE_NORM_ROWS + MLP_ROWS
_PAIRS = _SHARED + attention_rows("half_split_q", "half_split_k")
_HALVES = _SHARED + attention_rows()
_BIASES = MappingProxyType({**BIASED, "mlp_bias": ("blk.0.ffn_gate.bias",)})
_SILU = constants(hidden_act="silu")
_QWEN = constants(hidden_act="silu", **NO_WINDOWS)
_LOCAL_EXPERTS = (
    Key("expert_count", "num_local_experts", "count"),
    Key("expert_used_count", "num_experts_per_tok", "count"),
)
_GRANITE_KEYS = DENSE_KEYS + MULTIPLIER_KEYS
_QWEN_EXPERTS = expert_rows("mlp.gate", "mlp.experts")
_MIXTRAL = ("w1", "w3", "w2")

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        model_type="llama",
        keys=DENSE_KEYS + _LOCAL_EXPERTS,
        tensors=(
            *_PAIRS,
            *expert_rows("block_sparse_moe.gate", "block_sparse_moe.experts", names=_MIXTRAL),
            *single_expert_rows("block_sparse_moe.experts", _MIXTRAL),
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
        constants=_QWEN,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "qwen": Architecture(
        model_type="qwen2",
        keys=(
            *(k for k in DENSE_KEYS if k.hf not in ("intermediate_size", "rms_norm_eps")),
            Key("feed_forward_length", "intermediate_size", "twice", required=True),
            # Converters have written this number under either key.
            Key("attention.layer_norm_epsilon", "rms_norm_eps", "number"),
            Key("attention.layer_norm_rms_epsilon", "rms_norm_eps", "number"),
        ),
        tensors=(*_HALVES, *layer_rows("attn_qkv", "self_attn.qkv_proj")),
        constants=_QWEN,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "qwen3": Architecture(
        model_type="qwen3",
        keys=(*DENSE_KEYS, Key("classifier.output_labels", "classifier_labels", "labels")),
        tensors=(*_HALVES, *QK_NORM_ROWS, *rows("cls.output", "score", "weight")),
        constants=_QWEN,
        present=BIASED,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "hunyuan-dense": Architecture(
        model_type="hunyuan_v1_dense",
        keys=DENSE_KEYS,
        tensors=(
            *_HALVES,
            *norm_rows(
                {
                    "attn_q_norm": "self_attn.query_layernorm",
                    "attn_k_norm": "self_attn.key_layernorm",
                }
            ),
        ),
        constants=constants(
            hidden_act="silu",
            use_qk_norm=True,
            use_cla=False,
            use_rotary_pos_emb=True,
            mlp_bias=False,
            norm_type="rms",
        ),
        present=BIASED,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "seed_oss": Architecture(
        model_type="seed_oss",
        keys=DENSE_KEYS,
        tensors=(
            *EMBEDDING_ROWS,
            *ROPE_ROWS,
            *attention_rows(),
            *MLP_ROWS,
            *layer_rows("attn_norm", "input_layernorm", "weight"),
            *layer_rows("post_attention_norm", "post_attention_layernorm", "weight"),
        ),
        constants=_SILU,
        present=MappingProxyType({**_BIASES, "attention_out_bias": ("blk.0.attn_output.bias",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "arcee": Architecture(
        model_type="arcee",
        keys=DENSE_KEYS,
        tensors=_PAIRS,
        constants=constants(hidden_act="relu2"),
        present=MappingProxyType({**BIASED, "mlp_bias": ("blk.0.ffn_up.bias",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "smollm3": Architecture(
        model_type="smollm3",
        keys=DENSE_KEYS,
        tensors=_PAIRS,
        constants=constants(hidden_act="silu", no_rope_layer_interval=4, **NO_WINDOWS),
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
            *expert_rows("block_sparse_moe.router.layer", "block_sparse_moe.experts"),
            *shared_expert_rows("shared_mlp", ("gate_proj", "up_proj", "output_linear")),
        ),
        constants=_SILU,
        present=BIASED,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "qwen2moe": Architecture(
        model_type="qwen2_moe",
        keys=DENSE_KEYS + QWEN_MOE_KEYS,
        tensors=(
            *_HALVES,
            *_QWEN_EXPERTS,
            *shared_expert_rows("mlp.shared_expert"),
            *layer_rows("ffn_gate_inp_shexp", "mlp.shared_expert_gate", "weight", op="row"),
        ),
        constants=constants(norm_topk_prob=False, decoder_sparse_step=1, **_QWEN),
        present=MappingProxyType({"qkv_bias": ("blk.0.attn_q.bias",)}),
        rows=MappingProxyType({"shared_expert_intermediate_size": "blk.0.ffn_gate_shexp.weight"}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "qwen3moe": Architecture(
        model_type="qwen3_moe",
        keys=DENSE_KEYS + QWEN_MOE_KEYS,
        tensors=_HALVES + QK_NORM_ROWS + _QWEN_EXPERTS,
        constants=constants(norm_topk_prob=True, decoder_sparse_step=1, **_QWEN),
        present=BIASED,
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
