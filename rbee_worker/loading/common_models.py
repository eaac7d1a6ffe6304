"""Stand-ins for commonly used models: the smallest of their shape, one per weight format.

They have no real weights. They only show which kernels such a model calls, so that an image can
contain these before it is known which model it will run.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.formats import FORMATS, Packed, TensorInfo

COMMON = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "BF16", "F16", "F32")
_DIM = 256  # a multiple of every format's block
_KV = 128
_LAYERS = 2  # the last layer uses activations of higher precision than the others
_CONFIG = {
    "vocab_size": _DIM,
    "hidden_size": _DIM,
    "intermediate_size": _DIM,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
_LAYER = {
    "self_attn.q_proj": (_DIM, _DIM),
    "self_attn.k_proj": (_KV, _DIM),
    "self_attn.v_proj": (_KV, _DIM),
    "self_attn.o_proj": (_DIM, _DIM),
    "mlp.gate_proj": (_DIM, _DIM),
    "mlp.up_proj": (_DIM, _DIM),
    "mlp.down_proj": (_DIM, _DIM),
    "input_layernorm": (_DIM,),
    "post_attention_layernorm": (_DIM,),
}
_SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (_DIM, _DIM),
    "model.norm.weight": (_DIM,),
    "lm_head.weight": (_DIM, _DIM),
    **{
        f"model.layers.{layer}.{name}.weight": shape
        for layer in range(_LAYERS)
        for name, shape in _LAYER.items()
    },
}


class _Blank:
    """A `TensorSource` of zeros: matrices in one format, vectors in float32."""

    def __init__(self, form: str) -> None:
        self._form = form

    def names(self) -> list[str]:
        return list(_SHAPES)

    def info(self, name: str) -> TensorInfo:
        shape = _SHAPES[name]
        form = self._form if len(shape) == 2 else "F32"
        return TensorInfo(form, shape, prod(shape) // FORMATS[form].block * FORMATS[form].bytes)

    def read(self, name: str) -> Packed:
        info = self.info(name)
        rows = info.shape[0] if len(info.shape) == 2 else 1
        data = np.zeros((rows, info.nbytes // rows), np.uint8)
        return Packed(data, info.format, info.shape)

    def release(self) -> None:
        """Nothing to release."""


def common_models() -> Iterator[Checkpoint]:
    """A Llama for each format in `COMMON`; Mistral, SmolLM and others of that shape need the same
    kernels."""
    for form in COMMON:
        yield Checkpoint(
            ref=f"common:{form}",
            path=Path(f"common-{form}"),
            kind="safetensors",
            arch="llama",
            config=dict(_CONFIG),
            generation={},
            source=_Blank(form),
            tokenizer_config={},
            files={},
            gguf=None,
            notes=(),
        )
