"""Logits of sequences in two lanes, of which one follows a voice: see `engine.lanes`."""

from __future__ import annotations

from collections.abc import Sequence

from rbee_worker.ops.batch import Array
from rbee_worker.state.specs import LANES


def guided(logits: Array, scales: Sequence[float]) -> Array:
    """Logits [LANES * P, vocab], those of the first lane first -> [P, vocab]: scale * a + (1 -
    scale) * b for each pair of rows, in float32, each product and the sum rounded. The memory of
    `logits` is used for it."""
    pairs = len(scales)
    assert logits.shape[0] >= LANES * pairs
    for row, scale in enumerate(scales):
        other = logits[pairs + row] * (1.0 - scale)
        logits[row] *= scale
        logits[row] += other
    return logits[:pairs]
