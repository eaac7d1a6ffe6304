"""The refusal of an architecture: what it is, whether it is planned, and the nearest supported
one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from rbee_worker.errors import UnsupportedModel

_RECURRENT = "a recurrent model"
_HYBRID = "a model of recurrent and attention layers"
_ENCODER = "an encoder: it makes embeddings, not text"
_PAIR = "an encoder and a decoder"
_PICTURES = "a model of images and text"

# `model_type` of config.json, or `general.architecture` of a GGUF file -> what it is.
PLANNED: Mapping[str, str] = MappingProxyType(
    {
        "rwkv": _RECURRENT,  # RWKV 4
        "t5encoder": "the encoder of a T5 alone",
        **dict.fromkeys(("qwen2_5_vl",), _PICTURES),
    }
)
_FIRST = ("llama", "mistral", "qwen2", "qwen3", "gemma3", "gemma3_text", "phi3", "mixtral")


def unsupported(
    found: str,
    supported: Iterable[str],
    where: str,
    *,
    config: Mapping[str, Any] | None = None,
    nearest: str = "",
) -> UnsupportedModel:
    """The error for the architecture `found`.

    nearest: a supported architecture with the same structure; without it, the error names the one
    with the most similar name. config: of a model directory; it may tell what kind of model this
    is.
    """
    known = list(supported)
    near = nearest or next(iter(difflib.get_close_matches(found, known, n=1, cutoff=0.5)), "")
    what = PLANNED.get(found) or _kind(config or {})
    state = "is planned, but not supported yet" if found in PLANNED else "is not supported"
    said = f" ({what})" if what else ""
    hint = f" (nearest: {near})" if near and not what else ""
    shown = [name for name in _FIRST if name in known]
    return UnsupportedModel(
        f"{where}: architecture {found[:80]!r}{said} {state}{hint}.",
        fix=f"use one of {', '.join(shown)} and {len(known) - len(shown)} more, which "
        "docs/architectures.md lists",
    )


def _kind(config: Mapping[str, Any]) -> str:
    """What kind of model a config describes, if it is not a text decoder."""
    names = " ".join(map(str, config["architectures"])) if _listed(config) else ""
    if config.get("is_encoder_decoder") is True:
        return _PAIR
    if isinstance(config.get("vision_config"), dict):
        return _PICTURES
    if isinstance(config.get("audio_config"), dict):
        return "a model of audio and text"
    if any(key in config for key in ("state_size", "ssm_cfg", "mamba_d_state", "conv_kernel")):
        return _HYBRID if "num_attention_heads" in config else _RECURRENT
    if any(word in names for word in ("ForMaskedLM", "ForSequenceClassification", "Embedding")):
        return _ENCODER
    return ""


def _listed(config: Mapping[str, Any]) -> bool:
    return isinstance(config.get("architectures"), list)
