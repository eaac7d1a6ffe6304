"""Falcon, GPT BigCode, MPT and the first Phi: config keys like those of GPT-2."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Row
from rbee_worker.checkpoint.names.dialects.dialect import Dialect, weight_and_bias
from rbee_worker.checkpoint.names.rows import constants

_FALCON_KEYS = {
    "n_embed": "hidden_size",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_key_value_heads",
    "num_kv_heads": "num_key_value_heads",
    "n_layer": "num_hidden_layers",
    "ffn_hidden_size": "intermediate_size",
    "activation": "hidden_act",
}
ACTIVATION = "activation_function"
GPT_KEYS = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_key_value_heads",
    "n_positions": "max_position_embeddings",
    "n_inner": "intermediate_size",
    ACTIVATION: "hidden_act",
}
_PHI_KEYS = GPT_KEYS | {"layer_norm_epsilon": "layer_norm_eps"}


def phi_rows(layer: str, shift: int = 0) -> tuple[Row, ...]:
    """The tensors inside Phi's layers; q, k and v are one matrix."""
    parts = {
        "ln": "input_layernorm",
        "mixer.Wqkv": "self_attn.qkv_proj",
        "mixer.out_proj": "self_attn.dense",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    inv_freq = Row(
        f"{layer}.mixer.rotary_emb.inv_freq",
        "model.layers.{}.self_attn.rotary_emb.inv_freq",
        shift=shift,
    )
    rows = (
        weight_and_bias(f"{layer}.{o}", f"model.layers.{{}}.{n}", shift) for o, n in parts.items()
    )
    return (inv_freq, *(row for pair in rows for row in pair))


def around_phi(prefix: str = "") -> tuple[Row, ...]:
    """The tensors outside Phi's layers, in files whose layers are `transformer.h`."""
    return (
        Row(f"{prefix}transformer.embd.wte.weight", "model.embed_tokens.weight"),
        *weight_and_bias(f"{prefix}lm_head.ln", "model.final_layernorm"),
        *weight_and_bias(f"{prefix}lm_head.linear", "lm_head"),
    )


DIALECTS = MappingProxyType(
    {
        "falcon": Dialect("falcon", _FALCON_KEYS),
        "RefinedWeb": Dialect("falcon", _FALCON_KEYS, constants(new_decoder_architecture=True)),
        "RefinedWebModel": Dialect("falcon", _FALCON_KEYS),
        "gpt_bigcode": Dialect("gpt_bigcode", GPT_KEYS),
        "mpt": Dialect(
            "mpt",
            {
                "d_model": "hidden_size",
                "n_heads": "num_attention_heads",
                "n_layers": "num_hidden_layers",
                "max_seq_len": "max_position_embeddings",
            },
        ),
        "mixformer-sequential": Dialect(
            "phi",
            _PHI_KEYS,
            tensors=(
                Row("layers.0.wte.weight", "model.embed_tokens.weight"),
                *phi_rows("layers.{}", shift=-1),
                *weight_and_bias("layers.{}.linear", "lm_head"),
            ),
            after=weight_and_bias("layers.{}.ln", "model.final_layernorm"),
        ),
        "phi-msft": Dialect(
            "phi",
            _PHI_KEYS,
            tensors=(
                *phi_rows("transformer.h.{}"),
                *around_phi(),
            ),
        ),
    }
)
