"""ModernBERT: rotary positions, a norm before each half, gated feed-forward, local attention.

model_type: modernbert (Warner et al. 2024). Every third layer sees the whole text, with rotary
positions of another base; the others see `local_attention` / 2 tokens to each side. The first layer
has no norm before its attention. With its head for classifying whole texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.blocks import PreNorm
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.mlp import GatedMLP
from rbee_worker.layers.norm import LayerNorm, NoNorm
from rbee_worker.layers.rope import rope_spec
from rbee_worker.models.config import FULL, SLIDING, activation, positive
from rbee_worker.models.encoder import Encoder, EncoderConfig, Scores, attention, leftovers
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights
from rbee_worker.ops import RopeSpec
from rbee_worker.types import PoolingRule

_POOLING: Mapping[str, PoolingRule] = {"cls": "cls", "mean": "mean"}


@dataclass(frozen=True, kw_only=True)
class Config(EncoderConfig):
    """ModernBERT's own keys."""

    max_position_embeddings: int = 8192
    hidden_activation: str = "gelu"
    norm_eps: float = 1e-5
    layer_norm_eps: float | None = None  # published files have it too; it must say the same
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    local_attention: int = 128
    global_attn_every_n_layers: int = 3
    global_rope_theta: float = 160000.0
    local_rope_theta: float | None = 10000.0
    layer_types: list[str] | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    classifier_pooling: str = "cls"
    classifier_bias: bool = False
    classifier_activation: str = "gelu"

    @property
    def kinds(self) -> Sequence[str]:
        if self.layer_types is not None:
            return self.layer_types
        positive("config", global_attn_every_n_layers=self.global_attn_every_n_layers)
        every = self.global_attn_every_n_layers
        return [SLIDING if i % every else FULL for i in range(self.num_hidden_layers)]

    @property
    def lengths(self) -> Mapping[str, int | None]:
        """A row sees as many tokens as half the window has, to each side, and itself."""
        return {FULL: None, SLIDING: self.local_attention // 2 + 1}

    @property
    def rotates(self) -> Sequence[object]:
        return [True] * self.num_hidden_layers


def build(c: Config, w: Weights) -> Encoder:
    """modernbert. Raises CheckpointError, UnsupportedModel."""
    _check(c)
    prefix = "model." if w.has("model.embeddings.tok_embeddings.weight") else ""
    root = w.sub("model") if prefix else w
    plans = plan_layers(c, _ropes(c))
    embed = root.matrix("embeddings.tok_embeddings.weight", c.vocab_size, c.hidden_size)
    scores = _scores(c, w) if c.labels else None
    if c.classifier_pooling not in _POOLING:
        raise CheckpointError(
            f"config: classifier_pooling is {c.classifier_pooling!r}, not cls or mean.",
            fix="download the checkpoint's config again.",
        )
    layers = root.layers("layers", c.num_hidden_layers)
    return Encoder(
        ops=w.ops,
        embed=embed,
        embed_norm=_norm(c, root, "embeddings.norm"),
        blocks=[_block(c, at, plan) for at, plan in zip(layers, plans, strict=True)],
        norm=_norm(c, root, "final_norm"),
        out=Linear(w.ops, embed, None, (c.vocab_size,)),
        groups=w.states.groups,
        vocab_size=c.vocab_size,
        context=c.max_position_embeddings,
        ropes=tuple(dict.fromkeys(p.rope for p in plans if p.rope is not None)),
        scores=scores,
        labels=c.labels,
        pooling=_POOLING[c.classifier_pooling],
        activation=c.activation,
        skipped=w.finish(leftovers(prefix, pooler=False)),
    )


def _block(c: Config, at: Weights, plan: LayerPlan) -> PreNorm:
    first = plan.number == 0
    return PreNorm(
        ops=at.ops,
        attention_norm=NoNorm(at.ops) if first else _norm(c, at, "attn_norm"),
        attention=attention(
            at.sub("attn"),
            c,
            "Wqkv",
            "Wo",
            bias=c.attention_bias,
            rope=plan.rope,
            window=plan.window,
        ),
        mlp_norm=_norm(c, at, "mlp_norm"),
        mlp=GatedMLP(
            ops=at.ops,
            gate_up=at.linear("mlp.Wi", c.hidden_size, 2 * c.intermediate_size, bias=c.mlp_bias),
            down=at.linear("mlp.Wo", c.intermediate_size, c.hidden_size, bias=c.mlp_bias),
            act=activation(c.hidden_activation),
        ),
    )


def _scores(c: Config, w: Weights) -> Scores:
    dim = c.hidden_size
    return Scores(
        w.ops,
        w.linear("head.dense", dim, dim, bias=c.classifier_bias),
        activation(c.classifier_activation),
        w.linear("classifier", dim, len(c.labels), bias=True),
        _norm(c, w, "head.norm"),
    )


def _norm(c: Config, w: Weights, name: str) -> LayerNorm:
    return w.layer_norm(name, c.hidden_size, c.norm_eps, bias=c.norm_bias)


def _ropes(c: Config) -> dict[str, RopeSpec]:
    """One rotary table for each kind of layer."""
    local = c.global_rope_theta if c.local_rope_theta is None else c.local_rope_theta
    found = {}
    for kind, theta in ((FULL, c.global_rope_theta), (SLIDING, local)):
        entry = {**((c.rope_parameters or {}).get(kind) or {}), **(c.rope_scaling or {})}
        theta = entry.pop("rope_theta", theta)
        if not isinstance(theta, int | float) or not theta > 1:
            raise CheckpointError(
                f"config: rope_parameters has a rope_theta of {theta!r}.",
                fix="download the checkpoint's config again.",
            )
        found[kind] = rope_spec(c.head_width, float(theta), entry, c.max_position_embeddings)
    return found


def _check(c: Config) -> None:
    positive(
        "config",
        vocab=c.vocab_size,
        hidden=c.hidden_size,
        inner=c.intermediate_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        window=c.local_attention,
    )
    if c.layer_norm_eps not in (None, c.norm_eps):
        raise UnsupportedModel(
            f"config: layer_norm_eps is {c.layer_norm_eps}, but norm_eps is {c.norm_eps}.",
            fix="remove the one that is wrong.",
        )
    if c.hidden_size % c.num_attention_heads:
        raise CheckpointError(
            f"config: {c.num_attention_heads} heads do not divide {c.hidden_size} columns.",
            fix="download the checkpoint's config again.",
        )
