"""Encoders with decoders: T5, whose name in llama.cpp also covers mT5 and umT5."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key, Row
from rbee_worker.checkpoint.names.rows import (
    DECODER_KEYS,
    TIED_WITHOUT_OUTPUT,
    TOKEN_KEYS,
    constants,
    rows,
)


def _each(gguf: str, hf: str) -> tuple[Row, ...]:
    return rows(gguf, hf, "weight")


def _side(gguf: str, hf: str, mlp: int) -> tuple[Row, ...]:
    """The tensors that encoder and decoder both have; mlp: the number of the feed-forward part.

    Without a gate, the one map into the feed-forward part is called as the one beside a gate.
    """
    attention, inside = "layer.0.SelfAttention", f"layer.{mlp}.DenseReluDense"
    names = {
        "attn_norm": "layer.0.layer_norm",
        "attn_q": f"{attention}.q",
        "attn_k": f"{attention}.k",
        "attn_v": f"{attention}.v",
        "attn_o": f"{attention}.o",
        "attn_rel_b": f"{attention}.relative_attention_bias",
        "ffn_norm": f"layer.{mlp}.layer_norm",
        "ffn_gate": f"{inside}.wi_0",
        "ffn_up": f"{inside}.wi_1",
        "ffn_down": f"{inside}.wo",
    }
    layer = (_each(f"{gguf}.blk.{{}}.{g}", f"{hf}.block.{{}}.{h}") for g, h in names.items())
    return (
        *_each(f"{gguf}.output_norm", f"{hf}.final_layer_norm"),
        *(row for part in layer for row in part),
    )


_CROSS = {
    "cross_attn_norm": "layer_norm",
    "cross_attn_q": "EncDecAttention.q",
    "cross_attn_k": "EncDecAttention.k",
    "cross_attn_v": "EncDecAttention.v",
    "cross_attn_o": "EncDecAttention.o",
    "cross_attn_rel_b": "EncDecAttention.relative_attention_bias",
}

ARCHITECTURES: dict[str, Architecture] = {
    "t5": Architecture(
        model_type="t5",
        keys=(
            *DECODER_KEYS,
            *TOKEN_KEYS,
            Key("attention.head_count", "num_attention_heads", "count", required=True),
            Key("attention.key_length", "head_dim", "count", required=True),
            Key("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", "number", required=True),
            Key(
                "attention.relative_buckets_count",
                "relative_attention_num_buckets",
                "count",
                required=True,
            ),
            Key("decoder_block_count", "num_decoder_layers", "count"),
            Key("decoder_start_token_id", "decoder_start_token_id", "id"),
        ),
        tensors=(
            *_each("token_embd", "shared"),
            *_each("output", "lm_head"),
            *_side("enc", "encoder", 1),
            *_side("dec", "decoder", 2),
            *(
                row
                for g, hf in _CROSS.items()
                for row in _each(f"dec.blk.{{}}.{g}", f"decoder.block.{{}}.layer.1.{hf}")
            ),
        ),
        # no key has the distance: llama.cpp assumes this one too
        constants=constants(hidden_act="gelu", relative_attention_max_distance=128),
        present=MappingProxyType({"is_gated_act": ("enc.blk.{}.ffn_gate.weight",)}),
        # relative positions in every layer, not in the first alone
        by_tensor=tuple((f"{side}.blk.1.attn_rel_b.weight", "umt5") for side in ("enc", "dec")),
        absent=TIED_WITHOUT_OUTPUT,
        unread=("num_key_value_heads", "partial_rotary_factor", "bos_token_id"),
        inert=("attention.layer_norm_epsilon", "attention.value_length", "attention.head_count_kv"),
    ),
}
