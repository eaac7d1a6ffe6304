"""Hybrids of recurrent layers and attention: Granite 4, Bamba, Falcon-H1.

A recurrent layer has no KV heads.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key, Row
from rbee_worker.checkpoint.names.rows import (
    DENSE_KEYS,
    EMBEDDING_ROWS,
    MULTIPLIER_KEYS,
    PRE_NORM_ROWS,
    ROPE_ROWS,
    TIED_WITHOUT_OUTPUT,
    attention_rows,
    constants,
    expert_rows,
    layer_rows,
    mlp_rows,
    rows,
    shared_expert_rows,
)
from rbee_worker.checkpoint.names.state_space import headed_rows

_SPACE_KEYS = (
    Key("ssm.conv_kernel", "mamba_d_conv", "count", required=True),
    Key("ssm.inner_size", "mamba_d_ssm", "count", required=True),
    Key("ssm.state_size", "mamba_d_state", "count", required=True),
    Key("ssm.time_step_rank", "mamba_n_heads", "count", required=True),
    Key("ssm.group_count", "mamba_n_groups", "count", required=True),
)
_KEYS = (
    *(key for key in DENSE_KEYS if key.hf != "num_key_value_heads"),
    Key("attention.head_count_kv", "key_heads.linear_attention", "hybrid", required=True),
    *_SPACE_KEYS,
    Key("rope.scaling.finetuned", "position_embedding_type", "rotary", default="rope"),
)
_PAIRS = attention_rows("half_split_q", "half_split_k")
_AT = "model.layers.{}.mamba"
_FALCON_FACTORS = (
    *("embedding_multiplier", "lm_head_multiplier", "key_multiplier"),
    *("attention_in_multiplier", "attention_out_multiplier"),
    *("ssm_in_multiplier", "ssm_out_multiplier"),
)
_BIASES = MappingProxyType(
    {
        "attention_bias": ("blk.{}.attn_q.bias",),
        "mamba_proj_bias": ("blk.{}.ssm_in.bias",),
        "mamba_conv_bias": ("blk.{}.ssm_conv1d.bias",),
    }
)

_ROWS = (
    *rows("token_embd", "model.embed_tokens", "weight"),
    *rows("output_norm", "model.final_layernorm", "weight"),
    *rows("output", "lm_head", "weight"),
    *layer_rows("attn_norm", "input_layernorm", "weight"),
    *ROPE_ROWS,
    *mlp_rows("feed_forward"),
    *headed_rows(_AT),
)
_BAMBA = Architecture(
    model_type="bamba",
    keys=_KEYS,
    tensors=(*_ROWS, *_PAIRS, *layer_rows("ffn_norm", "pre_ff_layernorm", "weight")),
    constants=constants(hidden_act="silu", mamba_expand=2),
    present=MappingProxyType({**_BIASES, "mlp_bias": ("blk.{}.ffn_up.bias",)}),
    absent=TIED_WITHOUT_OUTPUT,
)

_GRANITE_KEYS = (
    *_KEYS,
    *MULTIPLIER_KEYS,
    Key("expert_count", "num_local_experts", "count", default=0),
    Key("expert_used_count", "num_experts_per_tok", "count", default=0),
    Key("expert_shared_feed_forward_length", "shared_intermediate_size", "count", required=True),
)
_GRANITE_ROWS = (*EMBEDDING_ROWS, *ROPE_ROWS, *PRE_NORM_ROWS, *_PAIRS, *headed_rows(_AT))
_SHARED = ("gate_proj", "up_proj", "output_linear")
_GRANITE = Architecture(
    model_type="granitemoehybrid",
    keys=_GRANITE_KEYS,
    tensors=(
        *_GRANITE_ROWS,
        *expert_rows("block_sparse_moe.router.layer", "block_sparse_moe.experts"),
        *shared_expert_rows("shared_mlp", _SHARED),
    ),
    constants=constants(hidden_act="silu", mamba_expand=2),
    present=_BIASES,
    absent=TIED_WITHOUT_OUTPUT,
)
_WITHOUT_EXPERTS = replace(
    _GRANITE, tensors=(*_GRANITE_ROWS, *mlp_rows("shared_mlp", "weight", names=_SHARED))
)

ARCHITECTURES: dict[str, Architecture] = {
    # Bamba's files have the same architecture, and no multipliers.
    "granitehybrid": replace(
        _GRANITE, instead=(("logit_scale", _BAMBA), ("expert_count", _WITHOUT_EXPERTS))
    ),
    # Multipliers are in the weights, which are those of a model without any.
    "falcon-h1": Architecture(
        model_type="falcon_h1",
        keys=(*DENSE_KEYS, *_SPACE_KEYS),
        tensors=(
            *_ROWS,
            *attention_rows(),
            Row("blk.{}.ffn_norm", "model.layers.{}.pre_ff_layernorm.weight"),
        ),
        constants=constants(
            hidden_act="silu",
            mamba_expand=2,
            mamba_norm_before_gate=False,
            **dict.fromkeys(_FALCON_FACTORS, 1.0),
        ),
        present=MappingProxyType(
            {
                **_BIASES,
                "mamba_rms_norm": ("blk.{}.ssm_norm.weight",),
                "projectors_bias": ("blk.{}.ssm_out.bias",),
                "mlp_bias": ("blk.{}.ffn_up.bias",),
            }
        ),
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
