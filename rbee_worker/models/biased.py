"""The model shape that Phi and Persimmon share: layer norms and biases everywhere, an attention
output named `dense`, optional norms of each head's q and k, and a norm before the output head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rbee_worker.layers.attention import Attention
from rbee_worker.layers.blocks import Parallel
from rbee_worker.layers.norm import LayerNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.block import Block
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.tower import Tower
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """The keys added to those of every decoder."""

    partial_rotary_factor: float = 0.5
    layer_norm_eps: float = 1e-5
    qk_layernorm: bool = False


def build(
    c: Config,
    w: Weights,
    block: Callable[[Weights, LayerPlan], Block],
    *,
    head_bias: bool = False,
    skip: Mapping[str, str] | None = None,
    tower: Tower | None = None,
) -> Decoder:
    """The model with the layers that `block(cursor, plan)` builds; others: see `parts.decoder`.
    Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    final = norm(w, c, "model.final_layernorm")
    plans = plan_layers(c, parts.rope_of(w, c))
    return parts.decoder(w, c, plans, block, final, head_bias=head_bias, skip=skip, tower=tower)


def build_phi(
    c: Config, w: Weights, *, skip: Mapping[str, str] | None = None, tower: Tower | None = None
) -> Decoder:
    """Phi's own model: attention and MLP side by side, a bias of the head; others: see `build`.
    Raises CheckpointError, UnsupportedModel."""

    def block(at: Weights, layer: LayerPlan) -> Parallel:
        return Parallel(
            ops=w.ops,
            norm=norm(at, c, "input_layernorm"),
            attention=attention(at, c, layer),
            mlp=parts.plain_mlp(at.sub("mlp"), c, "fc1", "fc2", bias=True),
        )

    return build(c, w, block, head_bias=True, skip=skip, tower=tower)


def norm(w: Weights, c: Config, name: str) -> LayerNorm:
    """The layer norm `name` of a whole row. Raises CheckpointError."""
    return w.layer_norm(name, c.hidden_size, c.layer_norm_eps)


def attention(
    w: Weights, c: Config, layer: LayerPlan, *, fused: str = "qkv_proj", groups: int = 1
) -> Attention:
    """`self_attn` at the cursor; fused, groups: see `parts.attention`. Raises CheckpointError."""
    mix = w.sub("self_attn")

    def head_norm(part: str, heads: int) -> LayerNorm:
        return mix.layer_norm(f"{part}_layernorm", c.width, c.layer_norm_eps, heads=heads)

    return parts.attention(
        mix,
        c,
        layer=layer,
        bias=True,
        out="dense",
        out_bias=True,
        qk_norm=head_norm if c.qk_layernorm else None,
        fused=fused,
        groups=groups,
    )
