"""The operations of `Ops` that RWKV 5, 6 and 7 are made of: the row before, mixing with it, and
recurrences of a matrix for each head.

`previous` and the recurrences start from the state in the slot of each sequence and store there the
state after the sequence's last row. Rows are computed in order, each with the same roundings, so a
row's result depends bitwise on its own sequence only, however that is split into steps. A
recurrence's state is a matrix for each head, of key columns n and value columns i, in cells
(`ops/cells.py`): float32 of shape `scan_shape(size, size, heads)`, where size is the number of
columns of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbee_worker.errors import UnsupportedModel
    from rbee_worker.ops.batch import Array, Batch
    from rbee_worker.state.specs import StateRef


class Wkv(ABC):
    """A part of `Ops` that a backend may lack. The state is tensor `name` of the `Fixed` state at
    `where`."""

    @abstractmethod
    def lacks(self, operation: str) -> UnsupportedModel:
        """See `Ops.lacks`."""

    def previous(self, x: Array, where: StateRef, name: str, batch: Batch) -> Array:
        """The row before each row of x [N, width] in its sequence. The state is the last row,
        float32 [1, width]."""
        raise self.lacks("previous")

    def lerp(self, x: Array, y: Array, factors: Array | None, moving: Array | None = None) -> Array:
        """x + (y - x) * (factors + moving), for one or several factors a column.

        x, y [N, width]; factors: float32 [parts * width]; moving [N, parts * width] -> the same
        shape, parts side by side. At most one of the two factors is None, which stands for zeros.
        """
        raise self.lacks("lerp")

    def wkv(
        self,
        r: Array,
        k: Array,
        v: Array,
        decay: Array | None,
        base: Array,
        bonus: Array,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        heads: int,
    ) -> Array:
        """The recurrence of RWKV 5 and 6 (Peng et al. 2024, sections 4.1 and 4.2). Of each head

            y_t[i] = sum over n of r_t[n] * (h_{t-1}[n, i] + bonus[n] * k_t[n] * v_t[i])
            h_t[n, i] = exp(-exp(base[n] + decay_t[n])) * h_{t-1}[n, i] + k_t[n] * v_t[i]

        r, k, v, decay [N, heads * size] -> y, the same shape. base, bonus: float32 [heads * size].
        decay None: zeros (RWKV 5).
        """
        raise self.lacks("wkv")

    def wkv_delta(
        self,
        r: Array,
        k: Array,
        v: Array,
        decay: Array,
        rate: Array,
        removal: Array,
        renewal: Array,
        bonus: Array,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        heads: int,
    ) -> tuple[Array, Array]:
        """The recurrence of RWKV 7, a generalized delta rule (Peng et al. 2025, section 4). Of each
        head, with a = sigmoid(rate_t), w = exp(-e^-0.5 * sigmoid(decay_t)), u the direction of
        k_t * removal (its length at least 1e-12), and c = k_t * (1 + (a - 1) * renewal):

            h_t[n, i] = w[n] * h_{t-1}[n, i] - s[i] * u[n] * a[n] + c[n] * v_t[i]
            s[i] = sum over n of u[n] * h_{t-1}[n, i]
            y_t[i] = sum over n of r_t[n] * h_t[n, i]
            z_t[i] = (sum over n of r_t[n] * c[n] * bonus[n]) * v_t[i]

        r, k, v, decay, rate [N, heads * size] -> y and z, both of the same shape. removal, renewal,
        bonus: float32 [heads * size].
        """
        raise self.lacks("wkv_delta")
