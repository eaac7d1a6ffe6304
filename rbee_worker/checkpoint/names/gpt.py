"""Families with q, k and v in one matrix and tensor names of their own: Falcon, MPT, BigCode."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key, Row
from rbee_worker.checkpoint.names.rows import (
    ATTENTION_KEYS,
    DECODER_KEYS,
    ROPE_KEYS,
    TIED_WITHOUT_OUTPUT,
    TOKEN_KEYS,
    constants,
    rows,
)

_KEYS = (
    *DECODER_KEYS,
    *ATTENTION_KEYS,
    *TOKEN_KEYS,
    Key("attention.layer_norm_epsilon", "layer_norm_epsilon", "number", required=True),
)


def _rows(embed: str, norm: str, layer: str, **parts: str) -> tuple[Row, ...]:
    """The tensors outside the layers, and each part of a layer by its GGUF name."""
    return (
        Row("token_embd.weight", f"{embed}.weight"),
        Row("output.weight", "lm_head.weight"),
        *rows("output_norm", norm),
        *(row for g, hf in parts.items() for row in rows(f"blk.{{}}.{g}", f"{layer}.{{}}.{hf}")),
    )


ARCHITECTURES: dict[str, Architecture] = {
    "falcon": Architecture(
        model_type="falcon",
        keys=_KEYS + ROPE_KEYS,
        tensors=_rows(
            "transformer.word_embeddings",
            "transformer.ln_f",
            "transformer.h",
            attn_norm="input_layernorm",
            attn_norm_2="ln_attn",
            attn_qkv="self_attention.query_key_value",
            attn_output="self_attention.dense",
            ffn_up="mlp.dense_h_to_4h",
            ffn_down="mlp.dense_4h_to_h",
        ),
        constants=constants(
            hidden_act="gelu",
            qkv_grouped=False,
            # The file's key tells the number of KV heads; its tensors, whether there are two norms.
            new_decoder_architecture=True,
            parallel_attn=True,
        ),
        present=MappingProxyType({"bias": ("blk.0.attn_qkv.bias",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "mpt": Architecture(
        model_type="mpt",
        keys=(
            *_KEYS,
            Key("attention.clamp_kqv", "attn_config.clip_qkv", "number"),
            # 0 means no ALiBi, and then the model has no positions at all.
            Key("attention.max_alibi_bias", "attn_config.alibi_bias_max", "number", default=0.0),
        ),
        tensors=_rows(
            "transformer.wte",
            "transformer.norm_f",
            "transformer.blocks",
            attn_norm="norm_1",
            attn_qkv="attn.Wqkv",
            attn_q_norm="attn.q_ln",
            attn_k_norm="attn.k_ln",
            attn_output="attn.out_proj",
            ffn_norm="norm_2",
            ffn_up="ffn.up_proj",
            ffn_down="ffn.down_proj",
        ),
        constants=constants(
            hidden_act="gelu",
            rope_theta=10000.0,  # unused: nothing rotates
            expansion_ratio=4,
            no_bias=True,
            norm_type="low_precision_layernorm",
            learned_pos_emb=False,
        ),
        present=MappingProxyType({"attn_config.qk_ln": ("blk.0.attn_q_norm.weight",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "starcoder": Architecture(
        model_type="gpt_bigcode",
        keys=_KEYS,
        tensors=(
            Row("position_embd.weight", "transformer.wpe.weight"),
            *_rows(
                "transformer.wte",
                "transformer.ln_f",
                "transformer.h",
                attn_norm="ln_1",
                attn_qkv="attn.c_attn",
                attn_output="attn.c_proj",
                ffn_norm="ln_2",
                ffn_up="mlp.c_fc",
                ffn_down="mlp.c_proj",
            ),
        ),
        constants=constants(
            hidden_act="gelu_pytorch_tanh",
            rope_theta=10000.0,  # unused: nothing rotates
            multi_query=True,
            scale_attn_weights=True,
        ),
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
