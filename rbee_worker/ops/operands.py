"""What operations take besides activations: rotary tables, weights, routing, activation kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Activation = Literal["silu", "gelu", "gelu_tanh", "gelu_quick", "relu", "relu2", "sigmoid", "tanh"]


@dataclass(frozen=True)
class RopeSpec:
    """Rotary positions as plain values. Two layers with equal specs share one table.

    dim: the leading columns of a head that rotate; the rest pass through.
    inv_freq: `dim / 2` angular frequencies (radians per position), after all scaling.
    interleaved: pairs are (0,1), (2,3).. instead of (0, dim/2), (1, dim/2+1)..
    magnitude: factor on cos and sin (YaRN's attention factor).
    long_inv_freq, long_magnitude, switch: used for sequences whose rope length exceeds `switch`
    (LongRoPE). dynamic: (theta, factor, original length): in a sequence longer than the original
    length the frequencies depend on its rope length (dynamic NTK).
    """

    dim: int
    inv_freq: tuple[float, ...]
    interleaved: bool = False
    magnitude: float = 1.0
    long_inv_freq: tuple[float, ...] | None = None
    long_magnitude: float = 1.0
    switch: int = 0
    dynamic: tuple[float, float, int] | None = None


@dataclass(frozen=True)
class Weight:
    """A weight in a backend's form: `rows` x `cols` numbers; `held`: the name of that form.

    `data` belongs to the backend. A stack of matrices (`Ops.stack`) has `count` of them, each rows
    x cols; `nbytes` is the size of all together.
    """

    data: Any
    rows: int
    cols: int
    format: str  # in the file
    held: str
    nbytes: int  # in memory
    count: int = 1


@dataclass(frozen=True)
class Routing:
    """How a token chooses among experts, as plain values.

    score: how a router's logits become scores: softmax over all experts, sigmoid of each, or
    sparsemixer (Phi-MoE, Liu et al. 2024, top 2 only): the best expert's weight is a softmax over
    the logits l with (best - l) / max(|l|, best) <= 2 * jitter, the second's likewise among the
    others.
    group_score: experts form `groups` equal groups of neighbours; only those of the `top_groups`
    best groups can be chosen. A group's score is its best expert's, or the sum of its best two.
    normalise: divide the weights by their sum plus `floor`; scale: then multiply them by this.
    """

    top_k: int
    score: Literal["softmax", "sigmoid", "sparsemixer"] = "softmax"
    normalise: bool = False
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1
    group_score: Literal["best", "best two"] = "best"
    jitter: float = 0.0
    floor: float = 1e-20
