"""Gemma 1, 2 and 3: GGUF files hold 1 + w for each norm, so the 1 is subtracted on load."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key
from rbee_worker.checkpoint.names.rows import (
    BIASED,
    DENSE_KEYS,
    MLP_ROWS,
    PRE_NORMS,
    QK_NORMS,
    SANDWICH_NORMS,
    TIED_WITHOUT_OUTPUT,
    WINDOWS_KEY,
    attention_rows,
    constants,
    embedding_rows,
    norm_rows,
)

_COMMON = embedding_rows("sub_one") + attention_rows() + MLP_ROWS
_TANH = constants(hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh")
_NOT_WINDOW = tuple(key for key in DENSE_KEYS if key.hf != "sliding_window")
# llama.cpp divides scores by the root of the head width, as these models' configs say.
_SCALE = Key("attention.key_length", "query_pre_attn_scalar", "count")


def _scaled_by(dim: int, heads: int) -> MappingProxyType[str, int]:
    """The 27B models divide scores by the root of dim / heads, which no metadata key says."""
    return MappingProxyType({"query_pre_attn_scalar": dim // heads})


ARCHITECTURES: dict[str, Architecture] = {
    "gemma": Architecture(
        model_type="gemma",
        keys=DENSE_KEYS,
        tensors=_COMMON + norm_rows(PRE_NORMS, op="sub_one"),
        constants=_TANH,
        present=BIASED,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "gemma2": Architecture(
        model_type="gemma2",
        keys=(
            *_NOT_WINDOW,
            Key("attention.sliding_window", "sliding_window", "count", default=4096),
            WINDOWS_KEY,
            Key("attn_logit_softcapping", "attn_logit_softcapping", "number", default=50.0),
            Key("final_logit_softcapping", "final_logit_softcapping", "number", default=30.0),
            _SCALE,
        ),
        tensors=_COMMON + norm_rows(SANDWICH_NORMS, op="sub_one"),
        constants=_TANH,
        present=BIASED,
        by_layers=MappingProxyType({46: _scaled_by(4608, 32)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        keys=(
            *DENSE_KEYS,
            WINDOWS_KEY,
            Key("final_logit_softcapping", "final_logit_softcapping", "number"),
            _SCALE,
            Key("rope.freq_base_swa", "rope_local_base_freq", "number", default=10000.0),
        ),
        tensors=_COMMON + norm_rows(SANDWICH_NORMS | QK_NORMS, op="sub_one"),
        constants=constants(sliding_window_pattern=6, **_TANH),
        present=BIASED,
        by_layers=MappingProxyType({62: _scaled_by(5376, 32)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
