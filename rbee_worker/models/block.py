"""What every layer of a model is to the rest of it."""

from __future__ import annotations

from typing import Protocol

from rbee_worker.ops.batch import Array, Batch


class Block(Protocol):
    """One layer of a model."""

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
