"""RWKV 7 (Goose): a recurrence with a generalized delta rule, and values of the first layer in all.

model_type: rwkv7 (Peng et al. 2025), under the names of flash-linear-attention (fla):
fla-hub/rwkv7-* and RWKV/RWKV7-*-HF. Values of a layer are mixed with those of the first one;
decay, rate and gate come through narrow maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.norm import LayerNorm, Norm
from rbee_worker.layers.time_mix import Blend, ChannelMix, DeltaTimeMix, LowRank, state_of
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder, Layer
from rbee_worker.models.config import RecurrentConfig, positive
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Activation, Ops
from rbee_worker.ops.batch import Array, Batch, Carry
from rbee_worker.state.specs import StateRef

NAMES = parts.Names(embed="model.embeddings", layers="model.layers", head="lm_head")
WAYS = "rwkvag"  # what a row is mixed for, in the order of `DeltaTimeMix` and of files


@dataclass(frozen=True, kw_only=True)
class Config(RecurrentConfig):
    """RWKV 7's own keys; a low rank of null follows from the width, by fla's rule."""

    hidden_act: str = "sqrelu"
    hidden_ratio: float | None = 4.0
    intermediate_size: int | None = None
    head_dim: int | None = 64
    num_heads: int | None = None
    decay_low_rank_dim: int | None = 64
    gate_low_rank_dim: int | None = 128
    a_low_rank_dim: int | None = 64
    v_low_rank_dim: int | None = 16
    norm_first: bool = True
    norm_bias: bool = True
    norm_eps: float = 1e-5
    head_norm_eps: float | None = None  # of GGUF files; None: norm_eps times the width of a head
    attn: dict[str, object] | None = None
    value_dim: int | list[int] | None = None

    @property
    def width(self) -> int:
        """Columns of a head."""
        return self.head_dim or self.hidden_size // (self.num_heads or 1)

    @property
    def heads(self) -> int:
        """The number of heads."""
        return self.hidden_size // self.width

    @property
    def inner(self) -> int:
        """Columns of a feed-forward block."""
        size = int(self.hidden_size * (self.hidden_ratio or 4))
        return self.intermediate_size or -(-size // 32) * 32

    @property
    def ranks(self) -> dict[str, int]:
        """Columns of the narrow maps, by the letter in their names."""
        root, wide = self.hidden_size**0.5, self.width / 64
        given = {
            "w": (self.decay_low_rank_dim, 2.5 * root * wide),
            "a": (self.a_low_rank_dim, 2.5 * root * wide),
            "v": (self.v_low_rank_dim, 1.7 * root * wide),
            "g": (self.gate_low_rank_dim, 5 * root),
        }
        return {k: said or max(32, round(rule / 32) * 32) for k, (said, rule) in given.items()}


@dataclass(frozen=True)
class Block:
    """x + time mixing, then x + channel mixing; the first block norms its input (`opening`)."""

    ops: Ops
    opening: Norm | None
    attention_norm: Norm
    attention: DeltaTimeMix
    mlp_norm: Norm
    mlp: ChannelMix

    def __call__(self, x: Array, batch: Batch, carry: Carry | None = None) -> Array:
        """x [N, dim] -> [N, dim]; carry: the values of the first layer, which that layer sets"""
        carry = carry or Carry()
        x = x if self.opening is None else self.opening(x)
        mixed, values = self.attention(self.attention_norm(x), carry.value, batch)
        if self.attention.share is None:
            carry.value = values
        normed, x = self.mlp_norm.after_add(mixed, x)
        return self.ops.add(x, self.mlp(normed, batch))


@dataclass(frozen=True)
class WithFirstValues(Decoder):
    """A decoder whose first block hands its values to all others."""

    def layers(self, x: Array, batch: Batch) -> Sequence[Layer]:
        """See `Decoder.layers`."""
        return self.carrying(x, batch, Carry())

    def carrying(self, x: Array, batch: Batch, carry: Carry) -> Sequence[Layer]:
        """See `Decoder.carrying`."""
        layers: list[Layer] = []
        for block in self.blocks:
            assert isinstance(block, Block)
            layers.append(partial(block, batch=batch, carry=carry))
        return layers


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    _check(c)
    width = c.hidden_size

    def norm(at: Weights, name: str) -> LayerNorm:
        return at.layer_norm(name, width, c.norm_eps, bias=c.norm_bias)

    def block(at: Weights, layer: LayerPlan) -> Block:
        first = layer.number == 0
        where = w.states.add(state_of(width, c.heads, c.width))
        fed = at.sub("ffn")
        return Block(
            ops=w.ops,
            opening=norm(at, "pre_norm") if first and c.norm_first else None,
            attention_norm=norm(at, "attn_norm"),
            attention=_time_mix(c, at.sub("attn"), where, first=first),
            mlp_norm=norm(at, "ffn_norm"),
            mlp=ChannelMix(
                ops=w.ops,
                blend=Blend(w.ops, w.ops.vector([fed.packed("x_k", (width,))]), 1),
                key=fed.linear("key", width, c.inner),
                value=fed.linear("value", c.inner, width),
                receptance=None,
                where=where,
            ),
        )

    unused = {r"model\.layers\.0\.attn\.v_lora\..*": "the first layer has only its own values"}
    model = parts.decoder(
        w, c, plan_layers(c, None), block, norm(w, "model.norm"), names=NAMES, skip=unused
    )
    return WithFirstValues(**{**vars(model), "carried": width})


def _check(c: Config) -> None:
    positive(
        "config",
        vocab=c.vocab_size,
        hidden=c.hidden_size,
        layers=c.num_hidden_layers,
        head=c.width,
        inner=c.inner,
        **{f"{letter}_low_rank": size for letter, size in c.ranks.items()},
    )
    if c.hidden_size % c.width:
        raise CheckpointError(
            f"config: {c.hidden_size} columns do not make heads of {c.width}.",
            fix="download the checkpoint's config again.",
        )
    widths = c.value_dim if isinstance(c.value_dim, list) else [c.value_dim or c.hidden_size]
    if any(width != c.hidden_size for width in widths):
        raise UnsupportedModel(
            f"config: value_dim is {c.value_dim}; values as wide as the model are supported.",
            fix="use another version of this model; published ones have hidden_size there.",
        )
    if c.attn is not None:
        raise UnsupportedModel(
            "config: attn gives some layers attention, which is not supported in RWKV 7.",
            fix="use a model without it: published ones have null there.",
        )
    if c.hidden_act != "sqrelu":
        raise UnsupportedModel(
            f"config: hidden_act is {c.hidden_act!r}; RWKV 7 has sqrelu.",
            fix="check model_type: this config belongs to another architecture.",
        )


def _time_mix(c: Config, at: Weights, where: StateRef, *, first: bool) -> DeltaTimeMix:
    ops, width, ranks = at.ops, c.hidden_size, c.ranks
    count = len(WAYS)
    if at.has("x_x"):  # one tensor in files of fla's first version and in GGUF files
        factors = [at.packed("x_x", (count, 1, 1, width))]
    else:
        factors = [at.packed(f"x_{way}", (1, 1, width)) for way in WAYS]

    def low_rank(way: str, act: Activation | None) -> LowRank:
        into = at.linear(f"{way}_lora.lora.0", width, ranks[way])
        out = at.linear(f"{way}_lora.lora.2", ranks[way], width, bias=way != "g")
        return LowRank(ops, into, act, out)

    weight, bias = (at.packed(f"g_norm.{part}", (width,)) for part in ("weight", "bias"))
    if at.has("r_k.weight"):  # in GGUF files
        bonus = at.packed("r_k.weight", (width,))
    else:
        bonus = at.packed("r_k", (c.heads, c.width))
    eps = c.norm_eps * c.width if c.head_norm_eps is None else c.head_norm_eps
    return DeltaTimeMix(
        ops=ops,
        blend=Blend(ops, ops.vector(factors), count),
        receptance=at.linear("r_proj", width, width),
        key=at.linear("k_proj", width, width),
        value=at.linear("v_proj", width, width),
        decay=low_rank("w", "tanh"),
        rate=low_rank("a", None),
        gate=low_rank("g", "sigmoid"),
        share=None if first else low_rank("v", None),
        removal=ops.vector([at.packed("k_k", (width,))]),
        renewal=ops.vector([at.packed("k_a", (width,))]),
        bonus=ops.vector([bonus]),
        norm=LayerNorm(ops, ops.vector([weight]), ops.vector([bias]), eps, c.heads),
        out=at.linear("o_proj", width, width),
        where=where,
    )
