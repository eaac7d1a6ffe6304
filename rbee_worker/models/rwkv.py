"""RWKV 5 (Eagle) and 6 (Finch): recurrences of a matrix for each head, and no attention.

model_type: rwkv5, rwkv6 (Peng et al. 2024), under the names of the repositories
RWKV/rwkv-5-world-1b5 and RWKV/rwkv-6-world-1b6. In RWKV 6 the decay of a state, and how a row is
mixed with the one before, depend on the row. `rescale_every` is not read: it halves numbers that
would overflow in 16 bits, and changes no result. GGUF files store matrices that are halved so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rbee_worker.checkpoint.formats import FORMATS, Packed
from rbee_worker.checkpoint.ops import floats, packed_floats, transpose
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.blocks import Opened, PreNorm
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.norm import LayerNorm
from rbee_worker.layers.time_mix import Blend, ChannelMix, LowRank, TimeMix, state_of
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import RecurrentConfig, positive
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights
from rbee_worker.state.specs import StateRef

NAMES = parts.Names(embed="rwkv.embeddings", layers="rwkv.blocks", head="head")
WAYS = "wkvrg"  # what RWKV 6 mixes a row for, in the order of its matrices


@dataclass(frozen=True, kw_only=True)
class Config(RecurrentConfig):
    """The keys of RWKV 5."""

    attention_hidden_size: int | None = None  # None: the width of the model
    head_size: int = 64
    head_size_divisor: int = 8
    intermediate_size: int | None = None  # None: 3.5 times the width, in steps of 32
    layer_norm_epsilon: float = 1e-5
    final_norm_epsilon: float = 1e-5  # only GGUF files have that of the other norms
    halved_every: int | None = None  # layers after which a file's matrices are halved once more

    @property
    def columns(self) -> int:
        """Columns of all heads."""
        return self.attention_hidden_size or self.hidden_size

    @property
    def inner(self) -> int:
        """Columns of a feed-forward block."""
        return self.intermediate_size or int(self.hidden_size * 3.5) // 32 * 32

    @property
    def heads(self) -> int:
        """The number of heads."""
        return self.columns // self.head_size

    @property
    def low_ranks(self) -> tuple[int, int]:
        """Columns of the narrow maps for mixing and for decay."""
        return (64, 128) if self.hidden_size >= 4096 else (32, 64)


@dataclass(frozen=True, kw_only=True)
class Rwkv6(Config):
    """The keys of RWKV 6; a GGUF file also says low ranks."""

    time_mix_extra_dim: int | None = None
    time_decay_extra_dim: int | None = None

    @property
    def low_ranks(self) -> tuple[int, int]:
        mixed, decayed = super().low_ranks
        return self.time_mix_extra_dim or mixed, self.time_decay_extra_dim or decayed


def build(c: Config, w: Weights) -> Decoder:
    """RWKV 5, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""

    def mix(at: Weights, where: StateRef) -> TimeMix:
        # The shares are of the row itself, not of the one before.
        ways = ("receptance", "key", "value", "gate")
        shares = [1 - floats(_channels(at, f"time_mix_{way}", c.hidden_size)) for way in ways]
        blend = Blend(w.ops, w.ops.vector([packed_floats(s) for s in shares]), len(ways))
        base = at.floats("time_decay", (c.heads, c.head_size))
        return _time_mix(c, at, where, blend, base, None)

    return _build(c, w, mix=mix, prefix="time_mix", names=("key", "receptance"))


def build_sixth(c: Rwkv6, w: Weights) -> Decoder:
    """RWKV 6, likewise."""
    mixed, decayed = c.low_ranks

    def mix(at: Weights, where: StateRef) -> TimeMix:
        width, count = c.hidden_size, len(WAYS)
        order = [WAYS.index(way) for way in "rkvgw"]  # as `TimeMix` has them
        if at.has("time_maa_wkvrg"):
            fused = at.floats("time_maa_wkvrg", (count, 1, 1, width))
            values = floats(fused).reshape(count, width)
            factors = [packed_floats(values[n]) for n in order]
        else:
            factors = [_channels(at, f"time_maa_{WAYS[n]}", width) for n in order]
        into = _turned(at, "time_maa_w1", (width, count * mixed))
        each = _turned(at, "time_maa_w2", (count, mixed, width))
        blend = Blend(
            w.ops,
            w.ops.vector(factors),
            count,
            first=w.ops.vector([_channels(at, "time_maa_x", width)]),
            into=_linear(w, [_part(into, n, mixed) for n in order]),
            each=w.ops.stack([[_part(each, n, width)] for n in order]),
        )
        decay = LowRank(
            w.ops,
            _linear(w, [_turned(at, "time_decay_w1", (width, decayed))]),
            "tanh",
            _linear(w, [_turned(at, "time_decay_w2", (decayed, c.columns))]),
        )
        base = at.packed("time_decay", (1, 1, c.columns))
        return _time_mix(c, at, where, blend, base, decay)

    return _build(c, w, mix=mix, prefix="time_maa", names=("k", "r"))


def _build(
    c: Config,
    w: Weights,
    *,
    mix: Callable[[Weights, StateRef], TimeMix],
    prefix: str,
    names: tuple[str, str],
) -> Decoder:
    """prefix, names: the tensors that say how a feed-forward block mixes rows, of k and of r."""
    _check(c, w)
    width, inner, eps = c.hidden_size, c.inner, c.layer_norm_epsilon

    def block(at: Weights, layer: LayerPlan) -> PreNorm | Opened:
        where = w.states.add(state_of(width, c.heads, c.head_size))
        fed = at.sub("feed_forward")
        shares = [_channels(fed, f"{prefix}_{name}", width) for name in names]
        if prefix == "time_mix":  # shares of the row itself
            shares = [packed_floats(1 - floats(s)) for s in shares]
        whole = PreNorm(
            ops=w.ops,
            attention_norm=at.layer_norm("ln1", width, eps),
            attention=mix(at.sub("attention"), where),
            mlp_norm=at.layer_norm("ln2", width, eps),
            mlp=ChannelMix(
                ops=w.ops,
                blend=Blend(w.ops, w.ops.vector(shares), len(shares)),
                key=fed.linear("key", width, inner),
                value=fed.linear("value", inner, width),
                receptance=fed.linear("receptance", width, width),
                where=where,
            ),
            residual_scale=2.0 ** (layer.number // c.halved_every) if c.halved_every else 1.0,
        )
        if layer.number:
            return whole
        return Opened(at.layer_norm("pre_ln", width, eps), whole)

    norm = w.layer_norm("rwkv.ln_out", width, c.final_norm_epsilon)
    return parts.decoder(w, c, plan_layers(c, None), block, norm, names=NAMES)


def _check(c: Config, w: Weights) -> None:
    positive(
        "config",
        vocab=c.vocab_size,
        hidden=c.hidden_size,
        inner=c.inner,
        layers=c.num_hidden_layers,
        head_size=c.head_size,
        head_size_divisor=c.head_size_divisor,
    )
    if c.columns % c.head_size:
        raise CheckpointError(
            f"config: {c.columns} columns do not make heads of head_size {c.head_size}.",
            fix="download the checkpoint's config again.",
        )
    if c.tie_word_embeddings:
        raise UnsupportedModel(
            "config: tie_word_embeddings is true, but RWKV 5 and 6 have a head of their own.",
            fix="set it to false.",
        )
    if w.has("model.embeddings.weight"):
        raise UnsupportedModel(
            "the checkpoint has the names of flash-linear-attention's RWKV 6, which are not read.",
            fix="use the same model from one of the repositories RWKV/rwkv-6-world-*.",
        )


def _time_mix(
    c: Config, at: Weights, where: StateRef, blend: Blend, base: Packed, decay: LowRank | None
) -> TimeMix:
    ops, width, columns = at.ops, c.hidden_size, c.columns
    weight, bias = (at.packed(f"ln_x.{part}", (columns,)) for part in ("weight", "bias"))
    eps = 1e-5 * c.head_size_divisor**2  # of a norm of values divided by head_size_divisor
    return TimeMix(
        ops=ops,
        blend=blend,
        receptance=at.linear("receptance", width, columns),
        key=at.linear("key", width, columns),
        value=at.linear("value", width, columns),
        gate=at.linear("gate", width, columns),
        decay=decay,
        base=ops.vector([base]),
        bonus=ops.vector([at.floats("time_faaaa", (c.heads, c.head_size))]),
        norm=LayerNorm(ops, ops.vector([weight]), ops.vector([bias]), eps, c.heads),
        out=at.linear("output", columns, width),
        where=where,
    )


def _channels(at: Weights, name: str, width: int) -> Packed:
    """A factor for each channel, [1, 1, width], as F32."""
    return at.floats(name, (1, 1, width))


def _turned(at: Weights, name: str, shape: tuple[int, ...]) -> Packed:
    """A matrix that the checkpoint has as [in, out], or several; blocks are expanded."""
    plain = FORMATS[at.format_of(name)].block == 1
    return transpose(at.packed(name, shape) if plain else at.floats(name, shape))


def _linear(w: Weights, members: list[Packed]) -> Linear:
    return Linear(w.ops, w.ops.matrix(members), None, tuple(m.shape[0] for m in members))


def _part(packed: Packed, number: int, rows: int) -> Packed:
    """Rows of a matrix, or of matrices one after another."""
    data = packed.data[number * rows : (number + 1) * rows]
    return Packed(data, packed.format, (rows, packed.shape[-1]))
