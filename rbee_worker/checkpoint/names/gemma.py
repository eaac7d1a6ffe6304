"""Gemma 1, 2 and 3: the files hold 1 + w for each norm, so that 1 is taken off again."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.rows import (
    DENSE_KEYS,
    MLP_ROWS,
    TIED_WITHOUT_OUTPUT,
    Architecture,
    Key,
    Row,
    attention_rows,
    constants,
)

_EMBEDDING_ROWS = (
    Row("token_embd.weight", "model.embed_tokens.weight"),
    Row("output.weight", "lm_head.weight"),
    Row("output_norm.weight", "model.norm.weight", "sub_one"),
)


def _norm(gguf: str, hf: str) -> Row:
    return Row(f"blk.{{}}.{gguf}.weight", f"model.layers.{{}}.{hf}.weight", "sub_one")


_COMMON = _EMBEDDING_ROWS + attention_rows() + MLP_ROWS
_SANDWICH_NORMS = (
    _norm("attn_norm", "input_layernorm"),
    _norm("post_attention_norm", "post_attention_layernorm"),
    _norm("ffn_norm", "pre_feedforward_layernorm"),
    _norm("post_ffw_norm", "post_feedforward_layernorm"),
)
_TANH = "gelu_pytorch_tanh"
# llama.cpp divides scores by the root of the head width, which is what the models say.
_SCALE = Key("attention.key_length", "query_pre_attn_scalar", "count")
_CAPS = (
    Key("attn_logit_softcapping", "attn_logit_softcapping", "number"),
    Key("final_logit_softcapping", "final_logit_softcapping", "number"),
)


def _scaled_by(dim: int, heads: int) -> MappingProxyType[str, int]:
    """The 27B models divide scores by the root of dim / heads, which no key says."""
    return MappingProxyType({"query_pre_attn_scalar": dim // heads})


ARCHITECTURES: dict[str, Architecture] = {
    "gemma": Architecture(
        model_type="gemma",
        keys=DENSE_KEYS,
        tensors=(
            *_COMMON,
            _norm("attn_norm", "input_layernorm"),
            _norm("ffn_norm", "post_attention_layernorm"),
        ),
        constants=constants(hidden_act=_TANH),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "gemma2": Architecture(
        model_type="gemma2",
        keys=(*DENSE_KEYS, *_CAPS, _SCALE),
        tensors=_COMMON + _SANDWICH_NORMS,
        constants=constants(hidden_activation=_TANH),
        by_layers=MappingProxyType({46: _scaled_by(4608, 32)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        keys=(
            *DENSE_KEYS,
            *_CAPS,
            _SCALE,
            Key("rope.freq_base_swa", "rope_local_base_freq", "number", default=10000.0),
        ),
        tensors=(
            *_COMMON,
            *_SANDWICH_NORMS,
            _norm("attn_q_norm", "self_attn.q_norm"),
            _norm("attn_k_norm", "self_attn.k_norm"),
        ),
        constants=constants(hidden_activation=_TANH),
        by_layers=MappingProxyType({62: _scaled_by(5376, 32)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
