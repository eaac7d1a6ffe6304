"""Gemma 4, text only. Files hold norms unchanged. Head widths, KV heads and the feed-forward width
may differ between layers, and `rope_freqs` leaves most pairs of wide heads unrotated.
"""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key, Row
from rbee_worker.checkpoint.names.rows import (
    BIASED,
    DECODER_KEYS,
    EMBEDDING_ROWS,
    MLP_ROWS,
    QK_NORM_ROWS,
    RMS_NORM_KEYS,
    TIED_WITHOUT_OUTPUT,
    TOKEN_KEYS,
    attention_rows,
    constants,
)

_THETA = "rope_parameters.{}_attention.rope_theta"
_KEYS = (
    *(key for key in DECODER_KEYS if key.hf != "intermediate_size"),
    *RMS_NORM_KEYS,
    *TOKEN_KEYS,
    Key("feed_forward_length", "intermediate_size", "each", required=True),
    Key("attention.head_count", "num_attention_heads", "count", required=True),
    Key("attention.head_count_kv", "num_key_value_heads", "each"),
    Key("attention.sliding_window", "sliding_window", "count", required=True),
    Key("attention.sliding_window_pattern", "layer_types", "windows", required=True),
    Key("attention.shared_kv_layers", "num_kv_shared_layers", "count", default=0),
    Key("attention.key_length_swa", "head_dim", "count", required=True),
    Key("attention.value_length_swa", "v_head_dim", "count"),
    Key("attention.key_length", "unwindowed.head_dim", "count", required=True),
    Key("attention.value_length", "unwindowed.v_head_dim", "count"),
    Key("rope.dimension_count_swa", "rotary_dim", "count"),
    Key("rope.dimension_count", "unwindowed.rotary_dim", "count"),
    Key("rope.freq_base_swa", _THETA.format("sliding"), "number", required=True),
    Key("rope.freq_base", _THETA.format("full"), "number", required=True),
    Key("embedding_length_per_layer_input", "hidden_size_per_layer_input", "count", required=True),
    Key("final_logit_softcapping", "final_logit_softcapping", "number"),
    Key("expert_count", "num_experts", "count"),
    Key("expert_used_count", "top_k_experts", "count"),
    Key("expert_feed_forward_length", "moe_intermediate_size", "count"),
)
_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
    "post_ffw_norm_1.weight": "post_feedforward_layernorm_1.weight",
    "pre_ffw_norm_2.weight": "pre_feedforward_layernorm_2.weight",
    "post_ffw_norm_2.weight": "post_feedforward_layernorm_2.weight",
    "layer_output_scale.weight": "layer_scalar",
    "inp_gate.weight": "per_layer_input_gate.weight",
    "proj.weight": "per_layer_projection.weight",
    "post_norm.weight": "post_per_layer_input_norm.weight",
    "ffn_gate_inp.weight": "router.proj.weight",
    "ffn_gate_inp.scale": "router.scale",
    "ffn_gate_up_exps.weight": "experts.gate_up_proj",
    "ffn_gate_exps.weight": "experts.gate_proj.weight",
    "ffn_up_exps.weight": "experts.up_proj.weight",
    "ffn_down_exps.weight": "experts.down_proj",
    "ffn_down_exps.scale": "router.per_expert_scale",
}

ARCHITECTURES: dict[str, Architecture] = {
    "gemma4": Architecture(
        model_type="gemma4_text",
        keys=_KEYS,
        tensors=(
            *EMBEDDING_ROWS,
            Row("rope_freqs.weight", "model.rope_freqs"),
            Row("per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight"),
            Row("per_layer_model_proj.weight", "model.per_layer_model_projection.weight"),
            Row("per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight"),
            *attention_rows(),
            *QK_NORM_ROWS,
            *MLP_ROWS,
            *(Row(f"blk.{{}}.{g}", f"model.layers.{{}}.{hf}") for g, hf in _LAYER.items()),
        ),
        constants=constants(
            hidden_act="gelu_pytorch_tanh",
            hidden_activation="gelu_pytorch_tanh",
            rope_theta=10000.0,  # unused: each layer type has its own
            global_head_dim=512,  # unused: layers with full attention have their own
            use_double_wide_mlp=False,  # unless the widths say otherwise
            vocab_size_per_layer_input=0,  # unless the file has such a table
        ),
        present=MappingProxyType({**BIASED, "enable_moe_block": ("blk.0.ffn_gate_inp.weight",)}),
        absent=TIED_WITHOUT_OUTPUT,
        alone=MappingProxyType({"attention_k_eq_v": ("attn_k.weight", "attn_v.weight")}),
        rows=MappingProxyType({"vocab_size_per_layer_input": "per_layer_token_embd.weight"}),
    ),
}
