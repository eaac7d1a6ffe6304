"""Hunyuan, its dense sizes and the translators Hunyuan-MT and Hy-MT: q and k normed once rotated.

model_type: hunyuan_v1_dense (Tencent 2025). A fixed `alpha` stretches the base of the rotation,
under a scaling that calls itself dynamic. GGUF files say the stretched base.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.models import parts, prenorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.weights import Weights

_NORMS = {"q": "query_layernorm", "k": "key_layernorm"}
# Keys of the model's own code -> the one value that transformers and llama.cpp compute.
_ONLY = {
    "use_qk_norm": True,
    "use_cla": False,
    "use_rotary_pos_emb": True,
    "mlp_bias": False,
    "norm_type": "rms",
}


@dataclass(frozen=True, kw_only=True)
class Config(prenorm.Config):
    """Hunyuan's own keys. Published files say a head's width twice."""

    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    attention_head_dim: int | None = None
    use_qk_norm: bool = True
    use_cla: bool = False  # layers that take the keys and values of an earlier one
    use_rotary_pos_emb: bool = True
    mlp_bias: bool = False
    norm_type: str = "rms"


def build(given: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    parts.check(given)
    _refuse(given)
    c = _stretched(given)
    return prenorm.build(
        c,
        w,
        lambda at, layer: parts.gated_mlp(at.sub("mlp"), c),
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        qk_after=_norms,
    )


def _norms(w: Weights, c: DecoderConfig, eps: float) -> parts.HeadNorm:
    return lambda part, heads: w.rms_norm(_NORMS[part], c.width, eps, heads=heads)


def _refuse(c: Config) -> None:
    if c.attention_head_dim not in (None, c.width):
        raise CheckpointError(
            f"config: head_dim is {c.width}, attention_head_dim is {c.attention_head_dim}.",
            fix="download the checkpoint's config again.",
        )
    wrong = [key for key, only in _ONLY.items() if getattr(c, key) != only]
    if wrong:
        raise UnsupportedModel(
            f"config: keys of Hunyuan with values that are not supported: {', '.join(wrong)}.",
            fix="use a published checkpoint of this architecture.",
        )


def _stretched(c: Config) -> Config:
    """The base that a fixed `alpha` means (NTK-aware scaling; bloc97 2023), which no length moves:
    the other keys of such a scaling are read by nobody."""
    scaling = c.rope_scaling or {}
    alpha = scaling.get("alpha")
    if scaling.get("rope_type") != "dynamic" or not alpha:
        return c
    if c.width <= 2 or not isinstance(alpha, int | float) or not 0 < alpha <= 1e9:
        raise CheckpointError(
            f"config: rope_scaling has an alpha of {alpha!r} for heads of {c.width} columns.",
            fix="download the checkpoint's config again.",
        )
    base = c.rope_theta * alpha ** (c.width / (c.width - 2))
    return replace(c, rope_theta=base, rope_scaling=None)
