"""Two traces of the same tokens, side by side: the error of every layer, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rbee_worker.ops.batch import Array
from rbee_worker.verify.whole import Pieces, Trace, layer_by_layer, trace

# Largest error that rounding explains, by the dtype computed in; i8: packed weights times
# activations in 8 bits. Float32 is what tests hold every architecture to.
TOLERANCE = {"f32": 1e-4, "f16": 1e-2, "bf16": 5e-2, "i8": 1e-1}


def relative_error(got: Array, want: Array) -> float:
    """Norm of the difference over norm; NaN where either has one."""
    one, other = (np.asarray(values, np.float64).reshape(-1) for values in (got, want))
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@dataclass(frozen=True)
class Step:
    """A line of the table. error: of the states that came out of everything before; alone: where
    this layer was given the oracle's states."""

    name: str
    error: float
    alone: float


@dataclass(frozen=True)
class Comparison:
    """steps: embedding, every layer, logits. logits_max and logits_mean: absolute differences.
    agree: share of positions with the same most likely token."""

    steps: tuple[Step, ...]
    logits_max: float
    logits_mean: float
    agree: float
    tolerance: float

    @property
    def logits(self) -> Step:
        """The last line."""
        return self.steps[-1]

    @property
    def ok(self) -> bool:
        """Is every error, of layers alone and of the logits, within the tolerance?"""
        return self.first is None and within(self.logits.error, self.tolerance)

    @property
    def first(self) -> Step | None:
        """The first layer whose own error is beyond the tolerance."""
        return next((s for s in self.steps if not within(s.alone, self.tolerance)), None)

    @property
    def worst(self) -> Step:
        """The layer with the largest error of its own."""
        return max(self.steps, key=lambda s: float("inf") if s.alone != s.alone else s.alone)

    def __str__(self) -> str:
        """One line: which layer is the first that is wrong, and how far off the logits are."""
        steps = ", ".join(
            f"{s.name} {s.alone:.1e}" for s in self.steps if not within(s.alone, self.tolerance)
        )
        wrong = f"wrong alone: {steps}" if steps else "every layer alone is right"
        return f"{wrong}; the logits differ by {self.logits.error:.1e}"


def within(error: float, tolerance: float) -> bool:
    """False for NaN too."""
    return error <= tolerance


def compare(
    model: Pieces, want: Trace, tokens: Sequence[int], *, tolerance: float = TOLERANCE["f32"]
) -> Comparison:
    """What `model` makes of `tokens` against the oracle's trace of them."""
    return compared(trace(model, tokens), layer_by_layer(model, tokens, want), want, tolerance)


def compared(got: Trace, each: Trace, want: Trace, tolerance: float) -> Comparison:
    """`got`: ours from the embedding on; `each`: ours from the oracle's states."""
    names = ["embedding", *(f"layer {n}" for n in range(len(want.states) - 1)), "logits"]
    rows = zip(
        names,
        (*got.states, got.logits),
        (*each.states, each.logits),
        (*want.states, want.logits),
        strict=True,
    )
    steps = tuple(Step(n, relative_error(g, w), relative_error(a, w)) for n, g, a, w in rows)
    off = np.abs(got.logits - want.logits)
    same = got.logits.argmax(axis=-1) == want.logits.argmax(axis=-1)
    return Comparison(
        steps,
        logits_max=float(off.max()),
        logits_mean=float(off.mean()),
        agree=float(same.mean()),
        tolerance=tolerance,
    )
