"""Qwen 1: Llama with biases of q, k and v, all three in one matrix; its own names and its GGUF's.

Beyond `seq_length` tokens its own code bends the rotary base and the scores by the length. The
context ends there, so neither is ever due.
"""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.rows import (
    DENSE_KEYS,
    EMBEDDING_ROWS,
    PRE_NORM_ROWS,
    TIED_WITHOUT_OUTPUT,
    Architecture,
    Key,
    Row,
    constants,
)

_TRAITS = constants(hidden_act="silu", qkv_bias=True)
_LAYER = {
    "attn.c_attn": "self_attn.qkv_proj",
    "attn.c_proj": "self_attn.o_proj",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "mlp.w1": "mlp.up_proj",
    "mlp.w2": "mlp.gate_proj",
    "mlp.c_proj": "mlp.down_proj",
}

DIALECT_KEYS = MappingProxyType(
    {
        "layer_norm_epsilon": "rms_norm_eps",
        "kv_channels": "head_dim",
        "rotary_emb_base": "rope_theta",
        "seq_length": "max_position_embeddings",
    }
)
DIALECT_TRAITS = _TRAITS
DIALECT_ONLY = MappingProxyType({"no_bias": True, "rotary_pct": 1.0, "scale_attn_weights": True})
DIALECT_IGNORED = (
    *("use_dynamic_ntk", "use_logn_attn"),  # beyond the context
    *("bf16", "fp16", "fp32", "onnx_safe", "softmax_in_fp32", "use_flash_attn"),
    *("use_cache_kernel", "use_cache_quantization", "attn_dropout_prob", "emb_dropout_prob"),
    *("tokenizer_class", "tokenizer_type"),
)
DIALECT_ROWS = (
    Row("transformer.wte.weight", "model.embed_tokens.weight"),
    Row("transformer.ln_f.weight", "model.norm.weight"),
    Row("transformer.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"),
    *(
        Row(f"transformer.h.{{}}.{old}.{kind}", f"model.layers.{{}}.{new}.{kind}")
        for old, new in _LAYER.items()
        for kind in ("weight", "bias")
    ),
)

ARCHITECTURES: dict[str, Architecture] = {
    "qwen": Architecture(
        model_type="llama",
        keys=(
            *(key for key in DENSE_KEYS if key.hf != "intermediate_size"),
            Key("feed_forward_length", "intermediate_size", "half", required=True),
        ),
        tensors=(
            *EMBEDDING_ROWS,
            *PRE_NORM_ROWS,
            *(
                Row(f"blk.{{}}.{gguf}", f"model.layers.{{}}.{hf}")
                for gguf, hf in {
                    "attn_qkv.weight": "self_attn.qkv_proj.weight",
                    "attn_qkv.bias": "self_attn.qkv_proj.bias",
                    "attn_output.weight": "self_attn.o_proj.weight",
                    "ffn_gate.weight": "mlp.gate_proj.weight",
                    "ffn_up.weight": "mlp.up_proj.weight",
                    "ffn_down.weight": "mlp.down_proj.weight",
                }.items()
            ),
        ),
        constants=_TRAITS,
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
