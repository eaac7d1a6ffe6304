"""Nemotron-H: a layer has KV heads, a feed-forward width, or neither and is recurrent."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key, Row
from rbee_worker.checkpoint.names.rows import DENSE_KEYS, TIED_WITHOUT_OUTPUT, constants, rows
from rbee_worker.checkpoint.names.state_space import headed_rows

_OTHERS = ("num_key_value_heads", "intermediate_size", "rms_norm_eps")
_KEYS = (
    *(key for key in DENSE_KEYS if key.hf not in _OTHERS),
    Key("attention.head_count_kv", "key_heads.linear_attention", "hybrid", required=True),
    # llama.cpp requires the first, which is that of no norm here, if there is the second.
    Key("attention.layer_norm_epsilon", "layer_norm_epsilon", "number"),
    Key("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", "number"),
    Key("ssm.conv_kernel", "conv_kernel", "count", required=True),
    Key("ssm.inner_size", "mamba_inner_size", "count", required=True),
    Key("ssm.state_size", "ssm_state_size", "count", required=True),
    Key("ssm.time_step_rank", "mamba_num_heads", "count", required=True),
    Key("ssm.group_count", "n_groups", "count", required=True),
)
_AT = "backbone.layers.{}"
_MIX = f"{_AT}.mixer"


def _rows(gguf: str, hf: str, *kinds: str, op: str | None = None) -> tuple[Row, ...]:
    return rows(f"blk.{{}}.{gguf}", f"{_MIX}.{hf}", *kinds, op=op)


_ROWS = (
    *rows("token_embd", "backbone.embeddings", "weight"),
    *rows("output_norm", "backbone.norm_f", "weight"),
    *rows("output", "lm_head", "weight"),
    *rows("blk.{}.attn_norm", f"{_AT}.norm", "weight"),
    *_rows("attn_q", "q_proj", "weight", op="half_split_q"),
    *_rows("attn_k", "k_proj", "weight", op="half_split_k"),
    *_rows("attn_v", "v_proj", "weight"),
    *_rows("attn_output", "o_proj", "weight"),
    *headed_rows(_MIX),
)
_BIASES = MappingProxyType(
    {"use_bias": ("blk.{}.ssm_in.bias",), "use_conv_bias": ("blk.{}.ssm_conv1d.bias",)}
)
_NO_EXPERTS = dict.fromkeys(
    (
        *("n_routed_experts", "num_experts_per_tok", "n_group", "topk_group"),
        *("moe_intermediate_size", "moe_shared_expert_intermediate_size"),
    ),
    0,
)
_SAME = {
    "mlp_hidden_act": "relu2",
    "mamba_hidden_act": "silu",
    "hidden_act": "silu",
    "residual_in_fp32": False,
    "attention_bias": False,
    "mamba_proj_bias": False,
}

ARCHITECTURES: dict[str, Architecture] = {
    "nemotron_h": Architecture(
        model_type="nemotron_h",
        keys=(*_KEYS, Key("feed_forward_length", "inner_widths.mlp", "hybrid", required=True)),
        tensors=(*_ROWS, *_rows("ffn_up", "up_proj"), *_rows("ffn_down", "down_proj")),
        constants=constants(
            **_SAME,
            **_NO_EXPERTS,
            n_shared_experts=1,
            norm_topk_prob=True,
            routed_scaling_factor=1.0,
        ),
        present=MappingProxyType({**_BIASES, "mlp_bias": ("blk.{}.ffn_up.bias",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "nemotron_h_moe": Architecture(
        model_type="nemotron_h",
        keys=(
            *_KEYS,
            Key("feed_forward_length", "inner_widths.moe", "hybrid", required=True),
            Key("expert_count", "n_routed_experts", "count", required=True),
            Key("expert_used_count", "num_experts_per_tok", "count", required=True),
            Key("expert_feed_forward_length", "moe_intermediate_size", "count", required=True),
            Key(
                "expert_shared_feed_forward_length",
                "moe_shared_expert_intermediate_size",
                "count",
                required=True,
            ),
            Key("expert_shared_count", "n_shared_experts", "count", default=1),
            Key("expert_weights_norm", "norm_topk_prob", "flag", default=False),
            Key("expert_weights_scale", "routed_scaling_factor", "number", default=1.0),
            Key("expert_group_count", "n_group", "count", default=1),
            Key("expert_group_used_count", "topk_group", "count", default=1),
            Key("moe_latent_size", "moe_latent_size", "count"),
        ),
        tensors=(
            *_ROWS,
            *_rows("ffn_gate_inp", "gate", "weight"),
            Row("blk.{}.exp_probs_b.bias", f"{_MIX}.gate.e_score_correction_bias"),
            *_rows("ffn_up_exps", "experts.up_proj", "weight"),
            *_rows("ffn_down_exps", "experts.down_proj", "weight"),
            *_rows("ffn_up_shexp", "shared_experts.up_proj", "weight"),
            *_rows("ffn_down_shexp", "shared_experts.down_proj", "weight"),
            *_rows("ffn_latent_down", "fc1_latent_proj", "weight"),
            *_rows("ffn_latent_up", "fc2_latent_proj", "weight"),
        ),
        constants=constants(**_SAME, mlp_bias=False),
        present=_BIASES,
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
