"""The operation of gated delta rules (Yang et al. 2024). See `ops/recurrences.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbee_worker.ops.batch import Array, Batch
    from rbee_worker.state.specs import StateRef


class GatedDelta(ABC):
    """A part of `Ops`."""

    @abstractmethod
    def gated_delta(
        self,
        q: Array,
        k: Array,
        v: Array,
        dt: Array,
        beta: Array,
        bias: Array,
        rates: Array,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        groups: int,
    ) -> Array:
        """For each head, with q and k those of its group and divided by their lengths,

            g_t = exp(rate * log(1 + exp(dt_t + bias))) * h_{t-1}
            h_t = g_t + k_t outer (sigmoid(beta_t) * (v_t - k_t g_t))
            y_t = q_t h_t / sqrt(states)

        A length is sqrt(sum of squares + 1e-6). q, k [N, groups * states], v [N, heads * columns],
        dt, beta [N, heads] -> y, shaped as v. bias, rates (none positive): float32 [heads]. The
        state is h, float32 of shape `scan_shape(states, columns, heads)`: tensor `name` of the
        `Fixed` state at `where`.
        """
