"""DeepSeek: latent attention, many small experts beside shared ones.

model_type: deepseek_v2 (DeepSeek-AI 2024: softmax routing, plain or limited to the best groups),
deepseek_v3 (V3, R1; 2024-25: sigmoid routing, with a bias on the choice that balances the experts).
The matrices from latents to keys and values are kept absorbed, one per head (`layers.latent`). HF's
`kv_b_proj`, which older GGUF files have too, is split on load: the half that makes keys is
transposed, so both halves are kept as floats. Newer GGUF files have the two halves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from rbee_worker.checkpoint.formats import FORMATS, Packed
from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.blocks import PreNorm
from rbee_worker.layers.latent import LatentAttention, LowRank
from rbee_worker.layers.linear import Linear
from rbee_worker.models import parts, small_experts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import positive
from rbee_worker.models.experts import Members, Parts, load_experts, transpose
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.mtp import MtpLayer, read_layer, unread
from rbee_worker.models.weights import Weights
from rbee_worker.ops import RopeSpec, Routing, Weight
from rbee_worker.state.specs import PagedKV

LATENT_EPS = 1e-6  # of the norms inside attention, whatever rms_norm_eps says
_METHODS = (("softmax", "greedy"), ("softmax", "group_limited_greedy"), ("sigmoid", "noaux_tc"))


@dataclass(frozen=True, kw_only=True)
class Config(small_experts.Config):
    """The keys that V2 and V3 share; `qk_head_dim` is a GGUF file's sum of both parts of a head.

    topk_method None: the method follows from scoring_func and the groups.
    """

    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    kv_lora_rank: int = 512
    q_lora_rank: int | None = 1536
    qk_rope_head_dim: int = 64
    qk_nope_head_dim: int | None = 128
    qk_head_dim: int | None = None
    v_head_dim: int = 128
    moe_layer_freq: int = 1
    scoring_func: str = "softmax"
    topk_method: str | None = "greedy"
    rope_interleave: bool | None = True
    num_nextn_predict_layers: int = 0

    @property
    def plain(self) -> int:
        """The columns of a head's query that have no positions."""
        return self.qk_nope_head_dim or (self.qk_head_dim or 0) - self.qk_rope_head_dim

    @property
    def rotary(self) -> int:
        return self.qk_rope_head_dim

    @property
    def width(self) -> int:
        return self.plain + self.rotary


@dataclass(frozen=True, kw_only=True)
class V2(Config):
    """V2's own keys."""

    mlp_bias: bool = False
    first_k_dense_replace: int = 0
    n_routed_experts: int | None = 64
    n_shared_experts: int | None = 2
    n_group: int | None = None
    topk_group: int | None = None
    moe_intermediate_size: int = 1407


@dataclass(frozen=True, kw_only=True)
class V3(Config):
    """V3's own keys."""

    num_key_value_heads: int | None = 128
    max_position_embeddings: int = 4096
    first_k_dense_replace: int | None = 3
    n_routed_experts: int | None = 256
    n_shared_experts: int | None = 1
    num_experts_per_tok: int | None = 8
    moe_intermediate_size: int = 2048
    n_group: int | None = 8
    topk_group: int | None = 4
    norm_topk_prob: bool | None = True
    routed_scaling_factor: float = 2.5
    scoring_func: str = "sigmoid"
    topk_method: str | None = "noaux_tc"
    num_nextn_predict_layers: int = 1


def build_second(c: V2, w: Weights) -> Decoder:
    """V2. Raises CheckpointError, UnsupportedModel."""
    return _build(c, w, mlp_bias=c.mlp_bias)


def build_third(c: V3, w: Weights) -> Decoder:
    """V3. Raises CheckpointError, UnsupportedModel."""
    return _build(c, w)


def _build(c: Config, w: Weights, *, mlp_bias: bool = False) -> Decoder:
    parts.check(c)
    positive(
        "config",
        kv_lora_rank=c.kv_lora_rank,
        qk_rope_head_dim=c.qk_rope_head_dim,
        qk_nope_head_dim=c.plain,
        v_head_dim=c.v_head_dim,
        moe_layer_freq=c.moe_layer_freq,
    )
    rope = parts.rope_of(w, c, interleaved=bool(c.rope_interleave))
    routing = _routing(c)

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("input_layernorm", c.hidden_size, c.rms_norm_eps),
            attention=_attention(at.sub("self_attn"), c, rope),
            mlp_norm=at.rms_norm("post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
            mlp=small_experts.feed_forward(
                at, c, routing, layer, bias=mlp_bias, every=c.moe_layer_freq
            ),
        )

    norm = w.rms_norm("model.norm", c.hidden_size, c.rms_norm_eps)
    notes = _notes(w)
    plans, further = plan_layers(c, rope), c.num_hidden_layers

    def mtp(at: Weights, embed: Weight, out: Linear) -> MtpLayer | None:
        layer = at.unadapted(f"model.layers.{further}")
        plan = replace(plans[-1], number=further)
        return read_layer(
            layer,
            lambda: block(layer, plan),
            embed,
            out,
            dim=c.hidden_size,
            eps=c.rms_norm_eps,
        )

    skip = unread(further, c.num_nextn_predict_layers, used=w.ops.mtp)
    model = parts.decoder(w, c, plans, block, norm, skip=skip, mtp=mtp)
    return replace(model, notes=notes)


def _notes(w: Weights) -> tuple[str, ...]:
    """Notes for the user on the memory that the model takes."""
    name = "model.layers.0.self_attn.kv_b_proj.weight"
    if not w.has(name) or FORMATS[w.format_of(name)].is_float:
        return ()
    return (f"kv_b_proj ({w.format_of(name)}) is split on load and kept as floats",)


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
    """The matrices of all heads: one [latent, plain] and one [value, latent] per head."""
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
    """The factor on the scores; YaRN's context scaling sharpens them (`mscale_all_dim`)."""
    scale = float((c.plain + c.qk_rope_head_dim) ** -0.5)
    scaling = c.rope_scaling or {}
    by, factor = scaling.get("mscale_all_dim"), float(scaling.get("factor") or 1.0)
    if by and factor > 1:
        scale *= (0.1 * float(by) * math.log(factor) + 1.0) ** 2
    return scale


def _routing(c: Config) -> Routing | None:
    method = c.topk_method
    if method is None and c.scoring_func == "softmax":
        method = "group_limited_greedy" if (c.n_group or 1) > 1 else "greedy"
    elif method is None:
        method = "noaux_tc"
    if (c.scoring_func, method) not in _METHODS:
        known = ", ".join(f"{score} with {name}" for score, name in _METHODS)
        raise UnsupportedModel(
            f"config: topk_method {method!r} of {c.scoring_func!r} is not supported.",
            fix=f"supported: {known}.",
        )
    score: Literal["softmax", "sigmoid"] = "sigmoid" if method == "noaux_tc" else "softmax"
    return small_experts.routing(c, score, grouped=method != "greedy")
