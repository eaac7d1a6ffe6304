"""The model shape that OLMo 2, OLMo 3 and EXAONE 4 share: norms only after each half, on the
outputs of attention and of a gated MLP before they are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rbee_worker.layers.blocks import PostNorm
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.layer_plan import LayerPlan
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """The key added to those of every decoder."""

    rms_norm_eps: float = 1e-5


def build(
    c: Config,
    w: Weights,
    plans: Sequence[LayerPlan],
    qk_norm: Callable[[Weights, DecoderConfig, float], parts.HeadNorm],
    *,
    bias: bool = False,
) -> Decoder:
    """The model. qk_norm: `parts.head_norms` or `parts.whole_norms`; bias: of attention's maps.

    Raises CheckpointError.
    """

    def block(at: Weights, layer: LayerPlan) -> PostNorm:
        mix = at.sub("self_attn")
        return PostNorm(
            ops=w.ops,
            attention=parts.attention(
                mix,
                c,
                layer=layer,
                bias=bias,
                out_bias=bias,
                qk_norm=qk_norm(mix, c, c.rms_norm_eps),
            ),
            attention_after=_norm(at, c, "post_attention_layernorm"),
            mlp=parts.gated_mlp(at.sub("mlp"), c),
            mlp_after=_norm(at, c, "post_feedforward_layernorm"),
        )

    return parts.decoder(w, c, plans, block, _norm(w, c, "model.norm"))


def _norm(w: Weights, c: Config, name: str) -> RMSNorm:
    return w.rms_norm(name, c.hidden_size, c.rms_norm_eps)
