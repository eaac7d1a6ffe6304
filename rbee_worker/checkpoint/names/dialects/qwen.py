"""Qwen 1, and keys of the Qwen mixtures."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Row
from rbee_worker.checkpoint.names.dialects.dialect import Dialect, weight_and_bias
from rbee_worker.checkpoint.names.rows import constants

_LAYER = "transformer.h.{}"
_ROWS = (
    Row("transformer.wte.weight", "model.embed_tokens.weight"),
    Row("transformer.ln_f.weight", "model.norm.weight"),
    *weight_and_bias(f"{_LAYER}.attn.c_attn", "model.layers.{}.self_attn.qkv_proj"),
    *(
        Row(f"{_LAYER}.{old}.weight", f"model.layers.{{}}.{new}.weight")
        for old, new in {
            "ln_1": "input_layernorm",
            "attn.c_proj": "self_attn.o_proj",
            "ln_2": "post_attention_layernorm",
            "mlp.w1": "mlp.up_proj",
            "mlp.w2": "mlp.gate_proj",
            "mlp.c_proj": "mlp.down_proj",
        }.items()
    ),
)

DIALECTS = MappingProxyType(
    {
        # Qwen 1 scales positions and scores beyond seq_length; here seq_length is the context.
        "qwen": Dialect(
            "qwen2",
            {
                "layer_norm_epsilon": "rms_norm_eps",
                "rotary_emb_base": "rope_theta",
                "kv_channels": "head_dim",
                "seq_length": "max_position_embeddings",
            },
            constants(hidden_act="silu", num_key_value_heads=None),
            factors=MappingProxyType({"intermediate_size": ("intermediate_size", 0.5)}),
            tensors=_ROWS,
            only=MappingProxyType({"no_bias": True, "rotary_pct": 1.0, "scale_attn_weights": True}),
            ignored=(
                "use_dynamic_ntk",
                "use_logn_attn",
                "attn_dropout_prob",
                "emb_dropout_prob",
                "onnx_safe",
                "use_flash_attn",
                "fp16",
                "bf16",
                "fp32",
                "tokenizer_type",
                "tokenizer_class",
            ),
        ),
        # transformers 5 writes another key than the published files have.
        "qwen2_moe": Dialect("qwen2_moe", {"num_local_experts": "num_experts"}),
        "qwen3_moe": Dialect("qwen3_moe", {"num_local_experts": "num_experts"}),
    }
)
