"""DeepSeek: latent attention, many small experts beside shared ones.

model_type: deepseek_v2 (DeepSeek-AI 2024: softmax routing, plain or limited to the best groups),
deepseek_v3 (V3, R1; 2024-25: sigmoid routing, chosen with a bias that balances the experts).
The matrices from latents to keys and values are kept one a head, absorbed (`layers.latent`). HF's
`kv_b_proj`, which older GGUF files have too, is taken apart when it is loaded: the half that makes
keys is transposed, so both are held as floats. Newer GGUF files have the two halves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rbee_worker.checkpoint.formats import FORMATS, Packed
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.blocks import FeedForward, PreNorm
from rbee_worker.layers.latent import LatentAttention, LowRank
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.moe import Experts, MoE
from rbee_worker.layers.rope import rope_spec
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig, activation, positive
from rbee_worker.models.experts import Members, Parts, load_experts, transpose
from rbee_worker.models.weights import Weights
from rbee_worker.ops import RopeSpec, Routing, Weight
from rbee_worker.state.specs import PagedKV

LATENT_EPS = 1e-6  # of the norms inside attention, whatever rms_norm_eps is
_METHODS = (("softmax", "greedy"), ("softmax", "group_limited_greedy"), ("sigmoid", "noaux_tc"))


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """DeepSeek's own keys."""

    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    mlp_bias: bool = False
    kv_lora_rank: int
    q_lora_rank: int | None = None
    qk_rope_head_dim: int
    qk_nope_head_dim: int | None = None
    qk_head_dim: int | None = None  # both together, where that is what a file says
    v_head_dim: int
    rope_interleave: bool = True
    first_k_dense_replace: int = 0
    moe_layer_freq: int = 1
    n_routed_experts: int | None = None
    n_shared_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    scoring_func: str = "softmax"
    topk_method: str | None = None  # None: what the scores and the groups ask for
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0
    num_nextn_predict_layers: int = 0

    @property
    def plain(self) -> int:
        """Columns of a head's query that have no positions."""
        return self.qk_nope_head_dim or (self.qk_head_dim or 0) - self.qk_rope_head_dim


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    positive(
        "config",
        kv_lora_rank=c.kv_lora_rank,
        qk_rope_head_dim=c.qk_rope_head_dim,
        qk_nope_head_dim=c.plain,
        v_head_dim=c.v_head_dim,
        moe_layer_freq=c.moe_layer_freq,
    )
    rope = rope_spec(
        c.qk_rope_head_dim,
        c.rope_theta,
        c.rope_scaling,
        c.max_position_embeddings,
        interleaved=c.rope_interleave,
    )
    routing = _routing(c) if c.n_routed_experts else None

    def block(at: Weights, layer: int) -> PreNorm:
        mixture = layer >= c.first_k_dense_replace and layer % c.moe_layer_freq == 0
        mlp: FeedForward
        if routing is not None and mixture:
            mlp = _mixture(at.sub("mlp"), c, routing)
        else:
            mlp = parts.gated_mlp(at.sub("mlp"), c, bias=c.mlp_bias)
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("input_layernorm", c.hidden_size, c.rms_norm_eps),
            attention=_attention(at.sub("self_attn"), c, rope),
            mlp_norm=at.rms_norm("post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
            mlp=mlp,
        )

    norm = w.rms_norm("model.norm", c.hidden_size, c.rms_norm_eps)
    notes = _notes(w)
    model = parts.decoder(w, c, block, norm, ropes=[rope], skip=_predictors(c))
    return replace(model, notes=notes)


def _notes(w: Weights) -> tuple[str, ...]:
    """What a person should hear of the memory that this takes."""
    name = "model.layers.0.self_attn.kv_b_proj.weight"
    if not w.has(name) or FORMATS[w.format_of(name)].is_float:
        return ()
    return (f"kv_b_proj ({w.format_of(name)}) is taken apart and held as floats",)


def _predictors(c: Config) -> Mapping[str, str]:
    """Layers behind the last, which predict further tokens."""
    first = c.num_hidden_layers
    numbers = range(first, first + c.num_nextn_predict_layers)
    why = "predicts further tokens (MTP), which is not used"
    return {rf"model\.layers\.{n}\..*": why for n in numbers}


def _attention(w: Weights, c: Config, rope: RopeSpec) -> LatentAttention:
    heads, latent, turning = c.num_attention_heads, c.kv_lora_rank, c.qk_rope_head_dim
    down = w.linear("kv_a_proj_with_mqa", c.hidden_size, latent + turning, bias=c.attention_bias)
    into, out_of = _absorbed(w, c)
    return LatentAttention(
        ops=w.ops,
        q=_queries(w, c),
        down=replace(down, widths=(latent, turning)),
        norm=w.rms_norm("kv_a_layernorm", latent, LATENT_EPS),
        into=into,
        out_of=out_of,
        out=w.linear("o_proj", heads * c.v_head_dim, c.hidden_size, bias=c.attention_bias),
        where=w.states.add(PagedKV(1, latent + turning, 0)),
        scale=_scale(c),
        rope=rope,
    )


def _queries(w: Weights, c: Config) -> Linear | LowRank:
    width, rank = c.num_attention_heads * (c.plain + c.qk_rope_head_dim), c.q_lora_rank
    if not rank:
        return w.linear("q_proj", c.hidden_size, width)
    return LowRank(
        w.linear("q_a_proj", c.hidden_size, rank, bias=c.attention_bias),
        w.rms_norm("q_a_layernorm", rank, LATENT_EPS),
        w.linear("q_b_proj", rank, width),
    )


def _absorbed(w: Weights, c: Config) -> tuple[Weight, Weight]:
    """One [latent, plain] and one [value, latent] for each head."""
    heads, latent, plain, value = c.num_attention_heads, c.kv_lora_rank, c.plain, c.v_head_dim
    if w.has("k_b_proj.weight"):
        into = load_experts(w, ("k_b_proj",), heads, plain, latent)
        return into, load_experts(w, ("v_b_proj",), heads, latent, value)
    whole = w.floats("kv_b_proj.weight", (heads * (plain + value), latent))

    def rows(head: int, first: int, count: int) -> Packed:
        start = head * (plain + value) + first
        return Packed(whole.data[start : start + count], whole.format, (count, latent))

    def keys(head: int) -> Parts:
        return [transpose(rows(head, 0, plain))]

    def values(head: int) -> Parts:
        return [rows(head, plain, value)]

    return w.ops.stack(Members(heads, keys)), w.ops.stack(Members(heads, values))


def _scale(c: Config) -> float:
    """Of the scores; yarn's stretch of the context sharpens them (`mscale_all_dim`)."""
    scale = float((c.plain + c.qk_rope_head_dim) ** -0.5)
    scaling = c.rope_scaling or {}
    by, factor = scaling.get("mscale_all_dim"), float(scaling.get("factor") or 1.0)
    if by and factor > 1:
        scale *= (0.1 * float(by) * math.log(factor) + 1.0) ** 2
    return scale


def _routing(c: Config) -> Routing:
    experts, chosen = c.n_routed_experts or 0, c.num_experts_per_tok
    positive("config", num_experts_per_tok=chosen, n_group=c.n_group, topk_group=c.topk_group)
    positive("config", moe_intermediate_size=c.moe_intermediate_size)
    method = c.topk_method
    if method is None and c.scoring_func == "softmax":
        method = "group_limited_greedy" if c.n_group > 1 else "greedy"
    elif method is None:
        method = "noaux_tc"
    if (c.scoring_func, method) not in _METHODS:
        known = ", ".join(f"{score} with {name}" for score, name in _METHODS)
        raise UnsupportedModel(
            f"config: topk_method {method!r} of {c.scoring_func!r} is not supported.",
            fix=f"supported: {known}.",
        )
    groups, best = c.n_group, c.topk_group
    if method == "greedy":
        groups = best = 1
    if experts % groups or best > groups or chosen > experts // groups * best:
        raise CheckpointError(
            f"config: {chosen} of {experts} experts in {groups} groups, {best} of them allowed.",
            fix="download the checkpoint's config again.",
        )
    sigmoid = c.scoring_func == "sigmoid"
    return Routing(
        top_k=chosen,
        score="sigmoid" if sigmoid else "softmax",
        normalise=c.norm_topk_prob,
        scale=c.routed_scaling_factor,
        groups=groups,
        top_groups=best,
        group_score="best two" if sigmoid else "best",
    )


def _mixture(w: Weights, c: Config, routing: Routing) -> MoE:
    dim, inner, count = c.hidden_size, c.moe_intermediate_size, c.n_routed_experts or 0
    at, bias = w.sub("experts"), None
    if routing.score == "sigmoid":
        bias = w.ops.vector([w.packed("gate.e_score_correction_bias", (count,))])
    shared = None
    if c.n_shared_experts:
        width = inner * c.n_shared_experts
        shared = parts.gated_mlp(w.sub("shared_experts"), c, bias=c.mlp_bias, inner=width)
    return MoE(
        ops=w.ops,
        router=w.linear("gate", dim, count),
        routing=routing,
        experts=Experts(
            ops=w.ops,
            up=load_experts(at, ("gate_proj", "up_proj"), count, dim, inner),
            down=load_experts(at, ("down_proj",), count, inner, dim),
            act=activation(c.hidden_act),
        ),
        choice_bias=bias,
        shared=shared,
    )
