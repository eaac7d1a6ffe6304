"""A mixture of many small experts beside some that all tokens share: DeepSeek's, for any family.

Layers before `first_k_dense_replace` have a plain feed-forward block. Routers score with a softmax,
or with sigmoids and a bias that affects only the choice (DeepSeek-AI 2024); the choice may be
limited to the experts of the best groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rbee_worker.errors import CheckpointError
from rbee_worker.layers.blocks import FeedForward
from rbee_worker.layers.moe import MoE
from rbee_worker.models import parts
from rbee_worker.models.config import DecoderConfig, positive
from rbee_worker.models.experts import gated_experts
from rbee_worker.models.layer_plan import LayerPlan
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Routing


@dataclass(frozen=True, kw_only=True)
class Routed(DecoderConfig):
    """The mixture's keys. Without n_routed_experts, no layer has experts."""

    n_routed_experts: int | None = None
    n_shared_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int = 1408
    n_group: int | None = 1
    topk_group: int | None = 1
    norm_topk_prob: bool | None = False
    routed_scaling_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Config(Routed):
    """The key of the layers before the first mixture."""

    first_k_dense_replace: int | None = 0


def routing(
    c: Routed, score: Literal["softmax", "sigmoid"], *, grouped: bool = True
) -> Routing | None:
    """How tokens choose experts; None: no layer has any. grouped: use n_group and topk_group.

    Raises CheckpointError.
    """
    experts, chosen = c.n_routed_experts or 0, c.num_experts_per_tok or 0
    if not experts:
        return None
    groups, best = (c.n_group or 1, c.topk_group or 1) if grouped else (1, 1)
    positive("config", num_experts_per_tok=chosen, n_group=groups, topk_group=best)
    positive("config", moe_intermediate_size=c.moe_intermediate_size)
    if experts % groups or best > groups or chosen > experts // groups * best:
        raise CheckpointError(
            f"config: {chosen} of {experts} experts in {groups} groups, {best} of them allowed.",
            fix="download the checkpoint's config again.",
        )
    return Routing(
        top_k=chosen,
        score=score,
        normalise=bool(c.norm_topk_prob),
        scale=c.routed_scaling_factor,
        groups=groups,
        top_groups=best,
        group_score="best two" if score == "sigmoid" else "best",
    )


def feed_forward(
    w: Weights,
    c: Config,
    by: Routing | None,
    layer: LayerPlan,
    *,
    bias: bool = False,
    every: int = 1,
) -> FeedForward:
    """`mlp` of a layer: a plain block, or the mixture in every `every`th layer from the first
    mixture on. bias: of plain and shared blocks. Raises CheckpointError, UnsupportedModel."""
    at = w.sub("mlp")
    number = layer.number
    if by is None or number < (c.first_k_dense_replace or 0) or number % every:
        return parts.gated_mlp(at, c, bias=bias)
    return _mixture(at, c, by, bias)


def _mixture(w: Weights, c: Config, by: Routing, bias: bool) -> MoE:
    count, shared, chosen_by = c.n_routed_experts or 0, None, None
    if by.score == "sigmoid":
        chosen_by = w.ops.vector([w.packed("gate.e_score_correction_bias", (count,))])
    if c.n_shared_experts:
        inner = c.moe_intermediate_size * c.n_shared_experts
        shared = parts.gated_mlp(w.sub("shared_experts"), c, bias=bias, inner=inner)
    return MoE(
        ops=w.ops,
        router=w.linear("gate", c.hidden_size, count),
        routing=by,
        experts=gated_experts(w.sub("experts"), c, count, c.moe_intermediate_size),
        choice_bias=chosen_by,
        shared=shared,
    )
