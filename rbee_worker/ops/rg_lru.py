"""The operation of RG-LRU layers (Griffin; De et al. 2024). See `ops/recurrences.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbee_worker.ops.batch import Array, Batch
    from rbee_worker.state.specs import StateRef


class RgLru(ABC):
    """A part of `Ops`."""

    @abstractmethod
    def rg_lru(
        self,
        x: Array,
        into: Array,
        passing: Array,
        into_bias: Array,
        passing_bias: Array,
        rates: Array,
        where: StateRef,
        name: str,
        batch: Batch,
    ) -> Array:
        """A recurrence of its own for each column,

            h_t = a_t * h_{t-1} + sqrt(1 - a_t^2) * sigmoid(into_t + into_bias) * x_t
            a_t = exp(rates * sigmoid(passing_t + passing_bias))

        but h_t = sigmoid(into_t + into_bias) * x_t at position 0. x, into, passing [N, width] ->
        every h_t [N, width]. biases, rates (none positive): float32 [width]. The state is h,
        float32 [width]: tensor `name` of the `Fixed` state at `where`.
        """
