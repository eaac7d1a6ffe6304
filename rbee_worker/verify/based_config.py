"""The config of Based as transformers' class, which transformers does not have.

Without `from __future__ import annotations`: the decorator checks values against types.
"""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PretrainedConfig


@strict
class BasedConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """The keys of published files that change numbers; defaults of the authors' code, which gives
    GPT-2's class keys of its own (`based/models/gpt.py` in github.com/HazyResearch/based)."""

    model_type = "based"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "intermediate_size": "n_inner",
    }

    vocab_size: int = 50257
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_head_kv: int | None = None
    n_inner: int = 1536
    layer_norm_epsilon: float = 1e-5
    rotary_emb_base: float = 10000.0
    rotary_emb_fraction: float | int = 0.0
    rotary_emb_interleaved: bool = False
    activation_function: str = "swiglu"
    rms_norm: bool = True
    pad_vocab_size_multiple: int = 1
    alt_mixer_layers: list[int] | None = None
    alt_mixer_2_layers: list[int] | None = None
    mixer: dict[str, Any] | None = None
    alt_mixer: dict[str, Any] | None = None
    alt_mixer_2: dict[str, Any] | None = None
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True
