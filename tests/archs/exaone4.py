"""EXAONE 4: windows in three layers of four, no positions in the fourth; a size without windows."""

from __future__ import annotations

import gguf
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, configured, rope
from tests.archs.dense import windows
from tests.archs.llama import LLAMA3, llama3_divisors

M, C = transformers.Exaone4ForCausalLM, transformers.Exaone4Config
A = gguf.MODEL_ARCH.EXAONE4
SHAPE = {"num_hidden_layers": 5, "sliding_window": 24}


def without_window() -> PretrainedConfig:
    """A config whose window is null, which `configured` leaves out."""
    config = configured(C, layer_types=["full_attention"] * 4, num_hidden_layers=4)()
    config.sliding_window = None
    config.tie_word_embeddings = True
    return config


ARCHS: tuple[Arch, ...] = (
    Arch(
        "exaone4",
        M,
        configured(C, **SHAPE, rope_parameters=LLAMA3),
        A,
        metadata=windows(True, True, True, False, True),
        extra=llama3_divisors,
        exact=False,
    ),
    Arch(
        "exaone4-types",
        M,
        configured(
            C,
            **SHAPE,
            head_dim=32,
            layer_types=["full_attention", "sliding_attention"] * 2 + ["full_attention"],
            rope_parameters=rope("default", 1e6),
        ),
        A,
        metadata={**windows(False, True, False, True, False), "rope.freq_base": 1e6},
    ),
    # As 1.2B is: all layers see everything, and have positions.
    Arch(
        "exaone4-no-window",
        M,
        without_window,
        A,
    ),
)
