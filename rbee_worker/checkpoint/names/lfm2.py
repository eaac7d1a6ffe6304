"""LFM2, with and without experts: a layer without KV heads is a short convolution."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key, Row
from rbee_worker.checkpoint.names.rows import (
    DENSE_KEYS,
    TIED_WITHOUT_OUTPUT,
    constants,
    expert_rows,
    layer_rows,
    mlp_rows,
    norm_rows,
    rows,
)
from rbee_worker.checkpoint.names.state_space import conv_rows

_OTHERS = ("num_key_value_heads", "rms_norm_eps")
_KEYS = (
    *(key for key in DENSE_KEYS if key.hf not in _OTHERS),
    Key("attention.head_count_kv", "key_heads.conv", "hybrid", required=True),
    Key("attention.layer_norm_rms_epsilon", "norm_eps", "number", required=True),
    Key("shortconv.l_cache", "conv_L_cache", "count", required=True),
)
_MLP = ("w1", "w3", "w2")
_ROWS = (
    *rows("token_embd", "model.embed_tokens", "weight"),
    *rows("token_embd_norm", "model.embedding_norm", "weight"),
    *rows("output", "lm_head", "weight"),
    *norm_rows(
        {
            "attn_norm": "operator_norm",
            "ffn_norm": "ffn_norm",
            "attn_q_norm": "self_attn.q_layernorm",
            "attn_k_norm": "self_attn.k_layernorm",
        }
    ),
    *(row for p in "qkv" for row in layer_rows(f"attn_{p}", f"self_attn.{p}_proj", "weight")),
    *layer_rows("attn_output", "self_attn.out_proj", "weight"),
    *conv_rows("shortconv.conv", "model.layers.{}.conv.conv"),
    *layer_rows("shortconv.in_proj", "conv.in_proj"),
    *layer_rows("shortconv.out_proj", "conv.out_proj"),
    *mlp_rows("feed_forward", "weight", names=_MLP),
)
_BIASES = MappingProxyType({"conv_bias": ("blk.{}.shortconv.conv.bias",)})

ARCHITECTURES: dict[str, Architecture] = {
    "lfm2": Architecture(
        model_type="lfm2",
        keys=_KEYS,
        tensors=_ROWS,
        constants=constants(
            hidden_act="silu",
            block_auto_adjust_ff_dim=False,
            block_multiple_of=256,
            block_ffn_dim_multiplier=1.0,
        ),
        present=_BIASES,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "lfm2moe": Architecture(
        model_type="lfm2_moe",
        keys=(
            *_KEYS,
            Key("expert_count", "num_experts", "count", required=True),
            Key("expert_used_count", "num_experts_per_tok", "count", required=True),
            Key("expert_feed_forward_length", "moe_intermediate_size", "count", required=True),
            Key("leading_dense_block_count", "num_dense_layers", "count", default=0),
            Key("expert_gating_func", "scoring_func", "gating", required=True),
        ),
        tensors=(
            *_ROWS,
            *expert_rows("feed_forward.gate", "feed_forward.experts", names=_MLP),
            Row("blk.{}.exp_probs_b.bias", "model.layers.{}.feed_forward.expert_bias"),
        ),
        constants=constants(hidden_act="silu", norm_topk_prob=True, routed_scaling_factor=1.0),
        present=MappingProxyType({**_BIASES, "use_expert_bias": ("blk.{}.exp_probs_b.bias",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
