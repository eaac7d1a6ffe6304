"""ChatGLM under the names of the authors' own code."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Row
from rbee_worker.checkpoint.names.dialects.dialect import Dialect
from rbee_worker.checkpoint.names.rows import constants

_LAYER = "transformer.encoder.layers.{}"
_ROWS = (
    Row("transformer.embedding.word_embeddings.weight", "model.embed_tokens.weight"),
    Row("transformer.rotary_pos_emb.inv_freq", "model.rotary_emb.inv_freq"),
    Row("transformer.encoder.final_layernorm.weight", "model.norm.weight"),
    Row("transformer.output_layer.weight", "lm_head.weight"),
    *(
        Row(f"{_LAYER}.{old}", f"model.layers.{{}}.{new}")
        for old, new in {
            "input_layernorm.weight": "input_layernorm.weight",
            "post_attention_layernorm.weight": "post_attention_layernorm.weight",
            "self_attention.query_key_value.weight": "self_attn.qkv_proj.weight",
            "self_attention.query_key_value.bias": "self_attn.qkv_proj.bias",
            "self_attention.dense.weight": "self_attn.o_proj.weight",
            "mlp.dense_h_to_4h.weight": "mlp.gate_up_proj.weight",
            "mlp.dense_4h_to_h.weight": "mlp.down_proj.weight",
        }.items()
    ),
)

DIALECTS = MappingProxyType(
    {
        "chatglm": Dialect(
            "glm",
            {
                "num_layers": "num_hidden_layers",
                "ffn_hidden_size": "intermediate_size",
                "kv_channels": "head_dim",
                "multi_query_group_num": "num_key_value_heads",
                "padded_vocab_size": "vocab_size",
                "seq_length": "max_position_embeddings",
                "layernorm_epsilon": "rms_norm_eps",
                "add_qkv_bias": "attention_bias",
            },
            constants(hidden_act="silu"),
            factors=MappingProxyType({"rope_ratio": ("rope_theta", 10000.0)}),
            tensors=_ROWS,
            only=MappingProxyType(
                {
                    "multi_query_attention": True,
                    "add_bias_linear": False,
                    "rmsnorm": True,
                    "post_layer_norm": True,
                    "apply_residual_connection_post_layernorm": False,
                    "original_rope": True,
                }
            ),
        ),
    }
)
