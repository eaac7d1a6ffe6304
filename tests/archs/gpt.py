"""Falcon, MPT and BigCode: one matrix for q, k and v, ALiBi, learned positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import transformers
from transformers import PretrainedConfig

from rbee_worker.verify.corrected import mpt_norms, mpt_slopes
from tests.archs.base import VOCAB, Arch, Arrays, configured

F, CF = transformers.FalconForCausalLM, transformers.FalconConfig
M, CM = transformers.MptForCausalLM, transformers.MptConfig
B, CB = transformers.GPTBigCodeForCausalLM, transformers.GPTBigCodeConfig
A = gguf.MODEL_ARCH


class MptWithBias(M):
    """HF builds MPT's slopes as if `alibi_bias_max` were always 8 (StoryWriter has 16), and leaves
    out norms of q and k."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        mpt_slopes(self)
        mpt_norms(self)


def _falcon(**changes: Any) -> Callable[[], PretrainedConfig]:
    return configured(CF, **{"num_key_value_heads": None, **changes})


def _mpt(**changes: Any) -> Callable[[], PretrainedConfig]:
    def make() -> PretrainedConfig:
        shape = {"vocab_size": VOCAB, "d_model": 64, "n_layers": 3, "n_heads": 4}
        return CM(**{**shape, "max_seq_len": 256, "bos_token_id": 1, "eos_token_id": 2, **changes})

    return make


def _bigcode(**changes: Any) -> Callable[[], PretrainedConfig]:
    def make() -> PretrainedConfig:
        shape = {"vocab_size": VOCAB, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256}
        return CB(**{**shape, "bos_token_id": 1, "eos_token_id": 2, **changes})

    return make


def stacked(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """llama.cpp's converter: Falcon's rows of q, k and v one after the other."""
    kv = config.num_kv_heads if config.new_decoder_architecture else 1
    width = config.hidden_size // config.num_attention_heads
    out = {}
    for name, array in tensors.items():
        if "query_key_value" in name:
            groups = array.reshape(kv, -1, width, *array.shape[1:])
            parts = (groups[:, :-2], groups[:, -2], groups[:, -1])
            array = np.concatenate([p.reshape(-1, *array.shape[1:]) for p in parts])
        out[name] = array
    return out


def _keys(config_heads: int, inner: int, **more: Any) -> dict[str, Any]:
    return {
        "attention.head_count_kv": config_heads,
        "feed_forward_length": inner,
        "rope.dimension_count": None,
        "context_length": 256,
        "attention.layer_norm_epsilon": 1e-5,
        **more,
    }


ARCHS: tuple[Arch, ...] = (
    Arch("falcon-7b", F, _falcon(), A.FALCON, stacked, _keys(1, 256)),
    Arch(
        "falcon-40b",
        F,
        _falcon(new_decoder_architecture=True, num_kv_heads=2),
        A.FALCON,
        stacked,
        _keys(2, 256),
    ),
    Arch(
        "falcon-11b",
        F,
        _falcon(
            new_decoder_architecture=True,
            num_kv_heads=2,
            num_ln_in_parallel_attn=1,
            tie_word_embeddings=False,
        ),
        A.FALCON,
        stacked,
        _keys(2, 256),
    ),
    Arch(
        "falcon-rw",
        F,
        _falcon(alibi=True, multi_query=False, parallel_attn=False, bias=True, ffn_hidden_size=96),
    ),
    Arch("falcon-alibi-mqa", F, _falcon(alibi=True)),
    Arch(
        "mpt",
        M,
        _mpt(),
        A.MPT,
        metadata=_keys(4, 256, **{"attention.max_alibi_bias": 8.0}),
    ),
    Arch(
        "mpt-clip-heads",
        MptWithBias,
        _mpt(
            n_heads=6,
            d_model=96,
            attn_config={"clip_qkv": 0.5, "alibi_bias_max": 6, "softmax_scale": 0.3},
        ),
    ),
    Arch(
        "mpt-storywriter",
        MptWithBias,
        _mpt(attn_config={"clip_qkv": 1.0, "alibi_bias_max": 16}, tie_word_embeddings=False),
        A.MPT,
        metadata=_keys(4, 256, **{"attention.max_alibi_bias": 16.0, "attention.clamp_kqv": 1.0}),
    ),
    Arch(
        "mpt-qk-norm",
        MptWithBias,
        _mpt(attn_config={"clip_qkv": 0.7, "qk_ln": True}),
        A.MPT,
        metadata=_keys(4, 256, **{"attention.max_alibi_bias": 8.0, "attention.clamp_kqv": 0.7}),
    ),
    Arch("starcoder", B, _bigcode(), A.STARCODER, metadata=_keys(1, 256)),
    Arch(
        "bigcode-mha",
        B,
        _bigcode(
            multi_query=False,
            n_inner=96,
            scale_attn_weights=False,
            activation_function="gelu",
            tie_word_embeddings=False,
        ),
    ),
)
