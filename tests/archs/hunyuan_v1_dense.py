"""Hunyuan: norms of q and k that have rotated, a rotation whose base is stretched."""

from __future__ import annotations

import gguf
import transformers

from tests.archs.base import Arch, configured, rope

M, C = transformers.HunYuanDenseV1ForCausalLM, transformers.HunYuanDenseV1Config
A = gguf.MODEL_ARCH.HUNYUAN_DENSE

# transformers' class cannot do without head_dim.
ARCHS: tuple[Arch, ...] = (
    Arch("hunyuan-dense", M, configured(C, head_dim=16), A),
    # As published files have it; GGUF files say the stretched base.
    Arch(
        "hunyuan-dense-alpha",
        M,
        configured(
            C,
            head_dim=32,
            attention_bias=True,
            max_position_embeddings=32768,
            tie_word_embeddings=True,
            rope_parameters=rope(
                "dynamic", alpha=1000.0, factor=1.0, mscale=1.0, mscale_all_dim=1.0, beta_fast=32
            ),
        ),
        A,
        metadata={"rope.freq_base": 1e4 * 1000.0 ** (32 / 30), "rope.scaling.type": "none"},
    ),
)
