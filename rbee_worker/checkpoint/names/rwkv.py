"""RWKV 6 and 7 in llama.cpp's files; of RWKV 5 there are none.

Matrices that HF stores as [in, out] are turned, factors of channels are vectors. In RWKV 6 some
matrices are halved again after every few layers, so that 16 bits are enough.
"""

from __future__ import annotations

from rbee_worker.checkpoint.names.architecture import Architecture, Key, Row
from rbee_worker.checkpoint.names.rows import TOKEN_KEYS, constants

_KEYS = (
    Key("context_length", "max_position_embeddings", "count", required=True),
    Key("embedding_length", "hidden_size", "count", required=True),
    Key("block_count", "num_hidden_layers", "count", required=True),
    Key("feed_forward_length", "intermediate_size", "count", required=True),
    Key("vocab_size", "vocab_size", "count"),
    *TOKEN_KEYS,
)
# Files have the first only because llama.cpp's loader requires it of every file; the second is 2 in
# all files of these architectures.
_INERT = ("attention.head_count", "token_shift_count")


def _both(gguf: str, hf: str) -> tuple[Row, ...]:
    """A weight and a bias."""
    return tuple(Row(f"{gguf}.{kind}", f"{hf}.{kind}") for kind in ("weight", "bias"))


def _sixth(gguf: str, hf: str, op: str | None = None) -> Row:
    return Row(f"blk.{{}}.{gguf}.weight", f"rwkv.blocks.{{}}.{hf}", op)


def _seventh(gguf: str, hf: str) -> Row:
    return Row(f"blk.{{}}.time_mix_{gguf}.weight", f"model.layers.{{}}.attn.{hf}")


_SIXTH = (
    Row("token_embd.weight", "rwkv.embeddings.weight"),
    *_both("token_embd_norm", "rwkv.blocks.0.pre_ln"),
    *_both("output_norm", "rwkv.ln_out"),
    Row("output.weight", "head.weight"),
    *_both("blk.{}.attn_norm", "rwkv.blocks.{}.ln1"),
    *_both("blk.{}.attn_norm_2", "rwkv.blocks.{}.ln2"),
    *_both("blk.{}.time_mix_ln", "rwkv.blocks.{}.attention.ln_x"),
    *(
        _sixth(f"time_mix_lerp_{way}", f"attention.time_maa_{way}", "channels")
        for way in "xwkvrg"  # files of 2024 have all, later ones x alone
    ),
    _sixth("time_mix_lerp_fused", "attention.time_maa_wkvrg"),
    _sixth("time_mix_w1", "attention.time_maa_w1", "transpose"),
    _sixth("time_mix_w2", "attention.time_maa_w2", "transpose"),
    _sixth("time_mix_decay", "attention.time_decay", "channels"),
    _sixth("time_mix_decay_w1", "attention.time_decay_w1", "transpose"),
    _sixth("time_mix_decay_w2", "attention.time_decay_w2", "transpose"),
    _sixth("time_mix_first", "attention.time_faaaa"),
    *(
        _sixth(f"time_mix_{part}", f"attention.{part}.weight")
        for part in ("receptance", "key", "value", "gate", "output")
    ),
    *(_sixth(f"channel_mix_lerp_{w}", f"feed_forward.time_maa_{w}", "channels") for w in "kr"),
    *(
        _sixth(f"channel_mix_{part}", f"feed_forward.{part}.weight")
        for part in ("key", "value", "receptance")
    ),
)

_PARTS = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
_SEVENTH = (
    Row("token_embd.weight", "model.embeddings.weight"),
    *_both("token_embd_norm", "model.layers.0.pre_norm"),
    *_both("output_norm", "model.norm"),
    Row("output.weight", "lm_head.weight"),
    *_both("blk.{}.attn_norm", "model.layers.{}.attn_norm"),
    *_both("blk.{}.attn_norm_2", "model.layers.{}.ffn_norm"),
    *_both("blk.{}.time_mix_ln", "model.layers.{}.attn.g_norm"),
    _seventh("lerp_fused", "x_x"),
    *(_seventh(f"{way}0", f"{way}_lora.lora.2.bias") for way in "wav"),
    *(_seventh(f"{way}1", f"{way}_lora.lora.0.weight") for way in "wavg"),
    *(_seventh(f"{way}2", f"{way}_lora.lora.2.weight") for way in "wavg"),
    _seventh("k_k", "k_k"),
    _seventh("k_a", "k_a"),
    _seventh("r_k", "r_k.weight"),  # a vector, not a row for each head
    *(_seventh(part, f"{name}.weight") for part, name in _PARTS.items()),
    Row("blk.{}.channel_mix_lerp_k.weight", "model.layers.{}.ffn.x_k"),
    Row("blk.{}.channel_mix_key.weight", "model.layers.{}.ffn.key.weight"),
    Row("blk.{}.channel_mix_value.weight", "model.layers.{}.ffn.value.weight"),
)

ARCHITECTURES: dict[str, Architecture] = {
    "rwkv6": Architecture(
        model_type="rwkv6",
        keys=(
            *_KEYS,
            Key("wkv.head_size", "head_size", "count", required=True),
            Key("attention.layer_norm_epsilon", "layer_norm_epsilon", "number", required=True),
            Key("attention.layer_norm_epsilon", "final_norm_epsilon", "number", required=True),
            Key("rescale_every_n_layers", "halved_every", "id"),
            Key("time_mix_extra_dim", "time_mix_extra_dim", "count", required=True),
            Key("time_decay_extra_dim", "time_decay_extra_dim", "count", required=True),
        ),
        tensors=_SIXTH,
        constants=constants(hidden_act="silu", head_size_divisor=8, tie_word_embeddings=False),
        inert=_INERT,
    ),
    "rwkv7": Architecture(
        model_type="rwkv7",
        keys=(
            *_KEYS,
            Key("wkv.head_size", "head_dim", "count", required=True),
            Key("attention.layer_norm_epsilon", "norm_eps", "number", required=True),
            Key("attention.decay_lora_rank", "decay_low_rank_dim", "count", required=True),
            Key("attention.iclr_lora_rank", "a_low_rank_dim", "count", required=True),
            Key("attention.value_residual_mix_lora_rank", "v_low_rank_dim", "count", required=True),
            Key("attention.gate_lora_rank", "gate_low_rank_dim", "count", required=True),
        ),
        tensors=_SEVENTH,
        constants=constants(
            hidden_act="sqrelu",
            norm_first=True,
            norm_bias=True,
            head_norm_eps=64e-5,
            tie_word_embeddings=False,
        ),
        inert=_INERT,
    ),
}
