"""Qwen3-Next: the rows of q, k and v of a delta rule are those of all groups, one after another."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key, Row
from rbee_worker.checkpoint.names.rows import (
    DENSE_KEYS,
    FURTHER_KEY,
    QK_NORMS,
    QWEN_MOE_KEYS,
    TIED_WITHOUT_OUTPUT,
    attention_rows,
    constants,
    embedding_rows,
    expert_rows,
    further_rows,
    layer_rows,
    norm_rows,
    shared_expert_rows,
)
from rbee_worker.checkpoint.names.state_space import conv_rows

_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    **QK_NORMS,
}
_AT = "model.layers.{}.linear_attn"

ARCHITECTURES: dict[str, Architecture] = {
    "qwen3next": Architecture(
        model_type="qwen3_next",
        keys=(
            *DENSE_KEYS,
            *QWEN_MOE_KEYS,
            Key("attention.recurrent_layers", "layer_types", "recurrent"),
            Key("full_attention_interval", "full_attention_interval", "count", default=4),
            FURTHER_KEY,
            Key("ssm.conv_kernel", "linear_conv_kernel_dim", "count", required=True),
            Key("ssm.inner_size", "linear_inner_size", "count", required=True),
            Key("ssm.state_size", "linear_key_head_dim", "count", required=True),
            Key("ssm.time_step_rank", "linear_num_value_heads", "count", required=True),
            Key("ssm.group_count", "linear_num_key_heads", "count", required=True),
        ),
        tensors=(
            *embedding_rows("sub_one"),
            *norm_rows(_NORMS, op="sub_one"),
            *attention_rows(),
            *conv_rows("ssm_conv1d", f"{_AT}.conv1d"),
            Row("blk.{}.ssm_a", f"{_AT}.A_log", "neg_log"),
            Row("blk.{}.ssm_dt.bias", f"{_AT}.dt_bias"),
            *layer_rows("ssm_norm", "linear_attn.norm", "weight"),
            *layer_rows("ssm_out", "linear_attn.out_proj", "weight"),
            *layer_rows("ssm_ba", "linear_attn.in_proj_ba", "weight"),
            *layer_rows("attn_qkv", "linear_attn.in_proj_qkv", "weight"),
            *layer_rows("attn_gate", "linear_attn.in_proj_z", "weight"),
            *expert_rows("mlp.gate", "mlp.experts"),
            *shared_expert_rows("mlp.shared_expert"),
            *further_rows("sub_one"),
            *layer_rows("ffn_gate_inp_shexp", "mlp.shared_expert_gate", "weight", op="row"),
        ),
        constants=constants(
            hidden_act="silu",
            norm_topk_prob=True,
            decoder_sparse_step=1,
            attention_bias=False,
            linear_value_head_dim=0,
        ),
        rows=MappingProxyType({"shared_expert_intermediate_size": "blk.0.ffn_gate_shexp.weight"}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
