"""Jamba: a layer without KV heads is recurrent, one with a router a mixture."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key
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
from rbee_worker.checkpoint.names.state_space import selective_rows

ARCHITECTURES: dict[str, Architecture] = {
    "jamba": Architecture(
        model_type="jamba",
        keys=(
            *(key for key in DENSE_KEYS if key.hf != "num_key_value_heads"),
            Key("attention.head_count_kv", "key_heads.linear_attention", "hybrid", required=True),
            Key("ssm.conv_kernel", "mamba_d_conv", "count", required=True),
            Key("ssm.inner_size", "mamba_d_inner", "count", required=True),
            Key("ssm.state_size", "mamba_d_state", "count", required=True),
            Key("ssm.time_step_rank", "mamba_dt_rank", "count", required=True),
            Key("expert_count", "num_experts", "count", default=1),
            Key("expert_used_count", "num_experts_per_tok", "count", default=1),
        ),
        tensors=(
            *rows("token_embd", "model.embed_tokens", "weight"),
            *rows("output_norm", "model.final_layernorm", "weight"),
            *rows("output", "lm_head", "weight"),
            *norm_rows(
                {
                    "attn_norm": "input_layernorm",
                    "ffn_norm": "pre_ff_layernorm",
                    **{f"ssm_{part}_norm": f"mamba.{part}_layernorm" for part in ("dt", "b", "c")},
                }
            ),
            *(
                row
                for p in "qkv"
                for row in layer_rows(f"attn_{p}", f"self_attn.{p}_proj", "weight")
            ),
            *layer_rows("attn_output", "self_attn.o_proj", "weight"),
            *selective_rows("model.layers.{}.mamba"),
            *mlp_rows("feed_forward", "weight"),
            *expert_rows("feed_forward.router", "feed_forward.experts"),
        ),
        constants=constants(
            hidden_act="silu",
            mamba_expand=2,
            attn_layer_period=8,
            attn_layer_offset=4,
            expert_layer_offset=0,
        ),
        present=MappingProxyType(
            {
                "mamba_conv_bias": ("blk.{}.ssm_conv1d.bias",),
                "mamba_proj_bias": ("blk.{}.ssm_in.bias",),
            }
        ),
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
