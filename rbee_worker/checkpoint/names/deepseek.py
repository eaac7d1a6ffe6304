"""DeepSeek: latent attention. Newer files hold its projections absorbed, one matrix a head
(`attn_k_b` and `attn_v_b`), older ones hold them as Hugging Face does (`attn_kv_b`).
"""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key
from rbee_worker.checkpoint.names.rows import (
    CHOICE_BIAS_ROW,
    DECODER_KEYS,
    EMBEDDING_ROWS,
    FURTHER_KEY,
    MLP_ROWS,
    PRE_NORM_ROWS,
    RMS_NORM_KEYS,
    ROPE_KEYS,
    SMALL_EXPERT_KEYS,
    TIED_WITHOUT_OUTPUT,
    TOKEN_KEYS,
    constants,
    expert_rows,
    further_rows,
    layer_rows,
    shared_expert_rows,
)

_KEYS = (
    *DECODER_KEYS,
    *RMS_NORM_KEYS,
    *(key for key in ROPE_KEYS if key.hf != "rotary_dim"),
    *TOKEN_KEYS,
    Key("rope.dimension_count", "qk_rope_head_dim", "count", required=True),
    Key("rope.scaling.yarn_log_multiplier", "rope_scaling.yarn_log_multiplier", "number"),
    Key("attention.head_count", "num_attention_heads", "count", required=True),
    Key("attention.head_count_kv", "num_key_value_heads", "count"),
    Key("attention.kv_lora_rank", "kv_lora_rank", "count", required=True),
    Key("attention.q_lora_rank", "q_lora_rank", "count"),
    # In files with absorbed projections these are the latent's widths; `_mla` keys are a head's.
    Key("attention.key_length", "qk_head_dim", "count"),
    Key("attention.key_length_mla", "qk_head_dim", "count"),
    Key("attention.value_length", "v_head_dim", "count"),
    Key("attention.value_length_mla", "v_head_dim", "count"),
    *SMALL_EXPERT_KEYS,
    Key("expert_gating_func", "scoring_func", "gating", default="softmax"),
    FURTHER_KEY,
)

_ATTENTION = {
    "attn_q": "q_proj",
    "attn_q_a": "q_a_proj",
    "attn_q_a_norm": "q_a_layernorm",
    "attn_q_b": "q_b_proj",
    "attn_kv_a_mqa": "kv_a_proj_with_mqa",
    "attn_kv_a_norm": "kv_a_layernorm",
    "attn_kv_b": "kv_b_proj",
    "attn_k_b": "k_b_proj",
    "attn_v_b": "v_b_proj",
    "attn_output": "o_proj",
}

ARCHITECTURES: dict[str, Architecture] = {
    "deepseek2": Architecture(
        model_type="deepseek_v2",
        by_value=(("scoring_func", "sigmoid", "deepseek_v3"),),
        keys=_KEYS,
        tensors=(
            *EMBEDDING_ROWS,
            *PRE_NORM_ROWS,
            *MLP_ROWS,
            *(
                row
                for gguf, hf in _ATTENTION.items()
                for row in layer_rows(gguf, f"self_attn.{hf}")
            ),
            *expert_rows("mlp.gate", "mlp.experts"),
            CHOICE_BIAS_ROW,
            *shared_expert_rows("mlp.shared_experts"),
            *further_rows(),
        ),
        constants=constants(
            hidden_act="silu",
            mlp_bias=False,
            moe_layer_freq=1,
            rope_interleave=True,
        ),
        present=MappingProxyType({"attention_bias": ("blk.0.attn_kv_a_mqa.bias",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
