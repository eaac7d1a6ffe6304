"""Compares two traces of the same tokens: the error of every layer, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rbee_worker.ops.batch import Array
from rbee_worker.verify.whole import Pieces, Trace, layer_by_layer, trace

# The largest error that rounding explains, by the dtype of the computation; i8: packed weights
# times 8-bit activations. The tests hold every architecture to the bound of float32.
TOLERANCE = {"f32": 1e-4, "f16": 1e-2, "bf16": 5e-2, "i8": 1e-1}


def relative_error(got: Array, want: Array) -> float:
    """Norm of the difference / norm of `want`; NaN if either contains one."""
    one, other = (np.asarray(values, np.float64).reshape(-1) for values in (got, want))
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@dataclass(frozen=True)
class Step:
    """A row of the table. error: of the states after this step; alone: of this layer computed from
    the oracle's states."""

    name: str
    error: float
    alone: float


@dataclass(frozen=True)
class Comparison:
    """steps: embedding, every layer, logits. logits_max and logits_mean: absolute differences.
    agree: fraction of positions with the same most likely token."""

    steps: tuple[Step, ...]
    logits_max: float
    logits_mean: float
    agree: float
    tolerance: float

    @property
    def logits(self) -> Step:
        """The last row."""
        return self.steps[-1]

    @property
    def ok(self) -> bool:
        """Whether the error of every layer alone, and of the logits, is within the tolerance."""
        return self.first is None and within(self.logits.error, self.tolerance)

    @property
    def first(self) -> Step | None:
        """The first layer whose own error exceeds the tolerance."""
        return next((s for s in self.steps if not within(s.alone, self.tolerance)), None)

    @property
    def worst(self) -> Step:
        """The layer with the largest own error."""
        return max(self.steps, key=lambda s: float("inf") if s.alone != s.alone else s.alone)

    def __str__(self) -> str:
        """One line: the layers that are wrong, and the error of the logits."""
        steps = ", ".join(
            f"{s.name} {s.alone:.1e}" for s in self.steps if not within(s.alone, self.tolerance)
        )
        wrong = f"wrong alone: {steps}" if steps else "every layer alone is right"
        return f"{wrong}; the logits differ by {self.logits.error:.1e}"


def within(error: float, tolerance: float) -> bool:
    """Whether an error is within the tolerance; NaN is not."""
    return error <= tolerance


def compare(
    model: Pieces,
    want: Trace,
    tokens: Sequence[int],
    *,
    source: Sequence[int] = (),
    tolerance: float = TOLERANCE["f32"],
    before: Sequence[Step] = (),
) -> Comparison:
    """Compare the model's computation of `tokens`, and of a source that it reads first, with the
    oracle's trace of them. before: further steps of the comparison."""
    got, each = trace(model, tokens, source), layer_by_layer(model, tokens, want, source)
    return compared(got, each, want, tolerance, before)


def compared(
    got: Trace, each: Trace, want: Trace, tolerance: float, before: Sequence[Step] = ()
) -> Comparison:
    """`got`: our trace from the embedding on; `each`: our layers from the oracle's states."""
    names = ["embedding", *(f"layer {n}" for n in range(len(want.states) - 1)), "logits"]
    if want.source:
        blocks = range(len(want.source) - 2)
        names = ["source", *(f"reader {n}" for n in blocks), "source rows", *names]
    rows = zip(
        names,
        (*got.source, *got.states, got.logits),
        (*each.source, *each.states, each.logits),
        (*want.source, *want.states, want.logits),
        strict=True,
    )
    found = (Step(n, relative_error(g, w), relative_error(a, w)) for n, g, a, w in rows)
    steps = (*before, *found)
    off = np.abs(got.logits - want.logits)
    same = got.logits.argmax(axis=-1) == want.logits.argmax(axis=-1)
    return Comparison(
        steps,
        logits_max=float(off.max()),
        logits_mean=float(off.mean()),
        agree=float(same.mean()),
        tolerance=tolerance,
    )
