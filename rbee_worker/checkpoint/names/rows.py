"""Keys and tensors that several architectures' tables share, and functions that make rows."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rbee_worker.checkpoint.names.architecture import Key, Row

# ---- keys

DECODER_KEYS = (
    Key("context_length", "max_position_embeddings", "count", required=True),
    Key("embedding_length", "hidden_size", "count", required=True),
    Key("block_count", "num_hidden_layers", "count", required=True),
    Key("feed_forward_length", "intermediate_size", "count", required=True),
    Key("vocab_size", "vocab_size", "count"),
)

ATTENTION_KEYS = (
    Key("attention.head_count", "num_attention_heads", "count", required=True),
    Key("attention.head_count_kv", "num_key_value_heads", "count"),
    Key("attention.key_length", "head_dim", "count"),
    Key("attention.value_length", "v_head_dim", "count"),
    Key("attention.sliding_window", "sliding_window", "count"),
)

RMS_NORM_KEYS = (Key("attention.layer_norm_rms_epsilon", "rms_norm_eps", "number", required=True),)

ROPE_KEYS = (
    Key("rope.freq_base", "rope_theta", "number", default=10000.0),
    Key("rope.dimension_count", "rotary_dim", "count"),
    Key("rope.scale_linear", "rope_scaling.factor", "number"),  # the name in files of 2023
    Key("rope.scaling.type", "rope_scaling.rope_type", "text"),
    Key("rope.scaling.factor", "rope_scaling.factor", "number"),
    Key("rope.scaling.attn_factor", "rope_scaling.attn_factor", "number"),
    Key("rope.scaling.yarn_attn_factor", "rope_scaling.attn_factor", "number"),
    Key(
        "rope.scaling.original_context_length",
        "rope_scaling.original_max_position_embeddings",
        "count",
    ),
    Key("rope.scaling.yarn_beta_fast", "rope_scaling.beta_fast", "number"),
    Key("rope.scaling.yarn_beta_slow", "rope_scaling.beta_slow", "number"),
)

TOKEN_KEYS = (
    Key("tokenizer.ggml.bos_token_id", "bos_token_id", "id", whole=True),
    Key("tokenizer.ggml.eos_token_id", "eos_token_id", "id", whole=True),
    Key("tokenizer.ggml.padding_token_id", "pad_token_id", "id", whole=True),
)

MULTIPLIER_KEYS = (
    Key("attention.scale", "attention_multiplier", "number"),
    Key("embedding_scale", "embedding_multiplier", "number", default=1.0),
    Key("residual_scale", "residual_multiplier", "number", default=1.0),
    Key("logit_scale", "logits_scaling", "number", required=True),
)

# Many small experts beside shared ones (models/small_experts.py).
SMALL_EXPERT_KEYS = (
    Key("leading_dense_block_count", "first_k_dense_replace", "count", default=0),
    Key("expert_count", "n_routed_experts", "count"),
    Key("expert_shared_count", "n_shared_experts", "count"),
    Key("expert_used_count", "num_experts_per_tok", "count"),
    Key("expert_feed_forward_length", "moe_intermediate_size", "count", required=True),
    Key("expert_weights_scale", "routed_scaling_factor", "number", default=1.0),
    Key("expert_weights_norm", "norm_topk_prob", "flag"),
    Key("expert_group_count", "n_group", "count"),
    Key("expert_group_used_count", "topk_group", "count"),
)

QWEN_MOE_KEYS = (
    Key("expert_count", "num_experts", "count", required=True),
    Key("expert_used_count", "num_experts_per_tok", "count", required=True),
    Key("expert_feed_forward_length", "moe_intermediate_size", "count", required=True),
    Key("expert_shared_feed_forward_length", "shared_expert_intermediate_size", "count"),
)
# generation_config.json
GENERATION_KEYS = (
    Key("general.sampling.temp", "temperature", "number", whole=True),
    Key("general.sampling.top_k", "top_k", "id", whole=True),
    Key("general.sampling.top_p", "top_p", "number", whole=True),
    Key("general.sampling.min_p", "min_p", "number", whole=True),
    Key("general.sampling.penalty_repeat", "repetition_penalty", "number", whole=True),
)

# tokenizer_config.json
TOKENIZER_KEYS = (
    Key("tokenizer.chat_template", "chat_template", "text", whole=True),
    Key("tokenizer.ggml.add_bos_token", "add_bos_token", "flag", whole=True),
    Key("tokenizer.ggml.add_eos_token", "add_eos_token", "flag", whole=True),
)

# For each layer, whether it has a sliding window; or a number n: every nth layer has none.
WINDOWS_KEY = Key("attention.sliding_window_pattern", "layer_types", "windows")

# Keys that affect no result: how the model was trained, how rows were laid out for loading. Whether
# the residual is parallel is recognized by the tensors.
INERT_KEYS = (
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "expert_used_count",
    "use_parallel_residual",
)

# ---- tensors

_KINDS = ("weight", "bias")


def rows(gguf: str, hf: str, *kinds: str, op: str | None = None) -> tuple[Row, ...]:
    """The tensors of one module; kinds: which (default: weight and bias); op: see `Row`."""
    return tuple(Row(f"{gguf}.{kind}", f"{hf}.{kind}", op) for kind in kinds or _KINDS)


def layer_rows(gguf: str, hf: str, *kinds: str, op: str | None = None) -> tuple[Row, ...]:
    """The tensors of a module that every layer has."""
    return rows(f"blk.{{}}.{gguf}", f"model.layers.{{}}.{hf}", *kinds, op=op)


def embedding_rows(norm_op: str | None = None) -> tuple[Row, ...]:
    """The tensors outside the layers; norm_op: reverses what a converter does to the norm."""
    return (
        *rows("token_embd", "model.embed_tokens", "weight"),
        *rows("output_norm", "model.norm", "weight", op=norm_op),
        *rows("output", "lm_head"),
    )


EMBEDDING_ROWS = embedding_rows()

ROPE_ROWS = (
    # Factors that DIVIDE the inverse frequencies (Llama 3.1 and later); no HF file has them.
    Row("rope_freqs.weight", "model.rope_freqs"),
    Row("blk.{}.attn_rot_embd.weight", "model.layers.{}.self_attn.rotary_emb.inv_freq"),
)

# The norms of each kind of block: name in a GGUF file -> HF's name.
PRE_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
POST_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
SANDWICH_NORMS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    **POST_NORMS,
}
QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


def norm_rows(norms: Mapping[str, str], *kinds: str, op: str | None = None) -> tuple[Row, ...]:
    """The norms of each layer; kinds: which tensors of a norm (default: the weight)."""
    named = kinds or ("weight",)
    return tuple(row for g, hf in norms.items() for row in layer_rows(g, hf, *named, op=op))


PRE_NORM_ROWS = norm_rows(PRE_NORMS)
QK_NORM_ROWS = norm_rows(QK_NORMS)


def attention_rows(q_op: str | None = None, k_op: str | None = None) -> tuple[Row, ...]:
    """q, k, v, o with biases; the ops reverse what a converter does to the rows of q and k."""
    parts = (("q", "q", q_op), ("k", "k", k_op), ("v", "v", None), ("output", "o", None))
    return tuple(
        row
        for gguf, hf, op in parts
        for row in layer_rows(f"attn_{gguf}", f"self_attn.{hf}_proj", op=op)
    )


_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def mlp_rows(
    at: str, *kinds: str, suffix: str = "", names: tuple[str, str, str] = _PROJECTIONS
) -> tuple[Row, ...]:
    """Gate, up and down of the feed-forward block named `at`; suffix: of the GGUF names."""
    parts = zip(("gate", "up", "down"), names, strict=True)
    return tuple(
        row for part, hf in parts for row in layer_rows(f"ffn_{part}{suffix}", f"{at}.{hf}", *kinds)
    )


MLP_ROWS = mlp_rows("mlp")


def expert_rows(
    router: str, experts: str, *kinds: str, names: tuple[str, str, str] = _PROJECTIONS
) -> tuple[Row, ...]:
    """A router, and the gate, up and down of all experts, stacked. router, experts: names inside a
    layer; kinds: which tensors of each (default: the weight)."""
    named = kinds or ("weight",)
    return (
        *layer_rows("ffn_gate_inp", router, *named),
        *mlp_rows(experts, *named, suffix="_exps", names=names),
    )


def shared_expert_rows(at: str, names: tuple[str, str, str] = _PROJECTIONS) -> tuple[Row, ...]:
    """The feed-forward block that all tokens share; `at`: its name inside a layer."""
    return mlp_rows(at, "weight", suffix="_shexp", names=names)


def single_expert_rows(experts: str, names: tuple[str, str, str]) -> tuple[Row, ...]:
    """Gate, up and down of each expert as a tensor of its own, as in files from before April
    2024."""
    parts = zip(("gate", "up", "down"), names, strict=True)
    return tuple(
        Row(f"blk.{{}}.ffn_{part}.{{}}.weight", f"model.layers.{{}}.{experts}.{{}}.{name}.weight")
        for part, name in parts
    )


CHOICE_BIAS_ROW = Row("blk.{}.exp_probs_b.bias", "model.layers.{}.mlp.gate.e_score_correction_bias")

# Layers behind the last one that predict further tokens (models/mtp.py): how many, and what they
# have beside a block as the others'.
FURTHER_KEY = Key("nextn_predict_layers", "num_nextn_predict_layers", "count", default=0)


def further_rows(norm_op: str | None = None) -> tuple[Row, ...]:
    """The tensors of these layers; norm_op: reverses what a converter does to norms."""
    norms = {"enorm": "enorm", "hnorm": "hnorm", "shared_head_norm": "shared_head.norm"}
    others = {"eh_proj": "eh_proj", "embed_tokens": "embed_tokens"}
    others["shared_head_head"] = "shared_head.head"
    return (
        *norm_rows({f"nextn.{gguf}": hf for gguf, hf in norms.items()}, op=norm_op),
        *norm_rows({f"nextn.{gguf}": hf for gguf, hf in others.items()}),
    )


DENSE_KEYS = DECODER_KEYS + ATTENTION_KEYS + RMS_NORM_KEYS + ROPE_KEYS + TOKEN_KEYS

TIED_WITHOUT_OUTPUT = MappingProxyType({"tie_word_embeddings": "output.weight"})
BIASED = MappingProxyType({"attention_bias": ("blk.0.attn_q.bias",)})  # for `present`
# Config values for models in which no layer has a sliding window.
NO_WINDOWS = MappingProxyType({"use_sliding_window": False, "max_window_layers": 0})


def constants(**values: Any) -> Mapping[str, Any]:
    """Config values that hold for every file of an architecture."""
    return MappingProxyType(values)
