"""What the tables of architectures are made of: the kinds of rows, and the rows they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True)
class Key:
    """A metadata key and the config key that takes its value.

    gguf: after `{architecture}.` unless `whole`. hf: dots lead into nested objects.
    kind: what the value must be (windows: for each layer, whether it has one; each: a count, or
    a list of one a layer; twice: a count that stands for half of it; gating: a number for how
    experts are scored). What is below `unwindowed.` in hf holds in layers without a window.
    default: when the file lacks the key (None: config lacks it too).
    """

    gguf: str
    hf: str
    kind: Literal["count", "number", "text", "flag", "id", "windows", "each", "twice", "gating"]
    default: Any = None
    required: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Row:
    """A tensor: `{}` stands for the layer's number, a second one for an expert's; op: a name in
    ops.OPS; shift: what is added to the layer's number on its way to the HF name."""

    gguf: str
    hf: str
    op: str | None = None
    shift: int = 0


@dataclass(frozen=True)
class Architecture:
    """One `general.architecture`.

    model_type: Hugging Face's; variants: (metadata key, model_type) that replaces it where the
    key's value is positive; by_value: (config key, value, model_type) likewise. constants: config
    keys that hold for every file; by_layers: those that hold for files of so many layers, where
    llama.cpp tells a published size by them. present: config keys that are true when one of these
    tensors is in the file; absent: when it is not; alone: when a layer has the first of these two
    and not the second. rows: config keys that count the rows of a tensor.
    """

    model_type: str
    keys: tuple[Key, ...]
    tensors: tuple[Row, ...]
    variants: tuple[tuple[str, str], ...] = ()
    by_value: tuple[tuple[str, Any, str], ...] = ()
    constants: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    by_layers: Mapping[int, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    present: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    absent: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    alone: Mapping[str, tuple[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    rows: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


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
    Key("rope.scale_linear", "rope_scaling.factor", "number"),  # what files of 2023 say
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

# Keys that change no number: what happened in training, how rows were laid out for loading.
# Whether a residual is parallel is seen by the tensors.
INERT_KEYS = (
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "expert_used_count",
    "use_parallel_residual",
)

# ---- tensors

EMBEDDING_ROWS = (
    Row("token_embd.weight", "model.embed_tokens.weight"),
    Row("output_norm.weight", "model.norm.weight"),
    Row("output.weight", "lm_head.weight"),
    Row("output.bias", "lm_head.bias"),
)

ROPE_ROWS = (
    # Factors that DIVIDE the inverse frequencies (Llama 3.1 and later); no HF file has them.
    Row("rope_freqs.weight", "model.rope_freqs"),
    Row("blk.{}.attn_rot_embd.weight", "model.layers.{}.self_attn.rotary_emb.inv_freq"),
)

PRE_NORM_ROWS = (
    Row("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"),
    Row("blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
)


def attention_rows(q_op: str | None = None, k_op: str | None = None) -> tuple[Row, ...]:
    """q, k, v, o with biases; the ops undo what a converter does to the rows of q and k."""
    ops = {"q": q_op, "k": k_op}
    parts = (("attn_q", "q"), ("attn_k", "k"), ("attn_v", "v"), ("attn_output", "o"))
    return tuple(
        Row(f"blk.{{}}.{gguf}.{kind}", f"model.layers.{{}}.self_attn.{hf}_proj.{kind}", ops.get(hf))
        for gguf, hf in parts
        for kind in ("weight", "bias")
    )


MLP_ROWS = tuple(
    Row(f"blk.{{}}.ffn_{part}.{kind}", f"model.layers.{{}}.mlp.{part}_proj.{kind}")
    for part in ("gate", "up", "down")
    for kind in ("weight", "bias")
)

QK_NORM_ROWS = tuple(
    Row(f"blk.{{}}.attn_{part}_norm.weight", f"model.layers.{{}}.self_attn.{part}_norm.weight")
    for part in ("q", "k")
)


def expert_rows(router: str, experts: str, names: tuple[str, str, str]) -> tuple[Row, ...]:
    """A router and the stacked gate, up and down of all experts, below a layer."""
    parts = zip(("gate", "up", "down"), names, strict=True)
    return (
        Row("blk.{}.ffn_gate_inp.weight", f"model.layers.{{}}.{router}.weight"),
        *(
            Row(f"blk.{{}}.ffn_{part}_exps.weight", f"model.layers.{{}}.{experts}.{name}.weight")
            for part, name in parts
        ),
    )


def single_expert_rows(experts: str, names: tuple[str, str, str]) -> tuple[Row, ...]:
    """gate, up and down of each expert, below a layer: how files had them before April 2024."""
    parts = zip(("gate", "up", "down"), names, strict=True)
    return tuple(
        Row(f"blk.{{}}.ffn_{part}.{{}}.weight", f"model.layers.{{}}.{experts}.{{}}.{name}.weight")
        for part, name in parts
    )


DENSE_KEYS = DECODER_KEYS + ATTENTION_KEYS + RMS_NORM_KEYS + ROPE_KEYS + TOKEN_KEYS

TIED_WITHOUT_OUTPUT = MappingProxyType({"tie_word_embeddings": "output.weight"})


def constants(**values: Any) -> Mapping[str, Any]:
    """Config keys that hold for every file of an architecture."""
    return MappingProxyType(values)
