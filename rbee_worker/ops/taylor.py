"""The operation of Based's linear attention (Arora et al. 2024). See `ops/recurrences.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbee_worker.errors import UnsupportedModel
    from rbee_worker.ops.batch import Array, Batch
    from rbee_worker.state.specs import StateRef


def taylor_states(size: int) -> int:
    """The number of states of a head whose keys have `size` columns; see `Taylor.taylor`."""
    return 1 + size * (size + 3) // 2


class Taylor(ABC):
    """A part of `Ops` that a backend may lack."""

    @abstractmethod
    def lacks(self, operation: str) -> UnsupportedModel:
        """See `Ops.lacks`."""

    def taylor(
        self,
        q: Array,
        k: Array,
        v: Array,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        heads: int,
    ) -> Array:
        """Attention with three terms of the series of e^x. For each head, in sums over the rows s
        of the sequence up to row t,

            y_t = (sum of w_ts * v_s) / (sum of w_ts)
            w_ts = 1 + x_ts + x_ts^2 / 2,  x_ts = q_t k_s / sqrt(size)

        q, k [N, heads * size], v [N, heads * columns] -> y, shaped as v. No w is less than 1/2.

        The state has what such sums are made of: of each head, the sum over s of a product of key
        columns times (v_s, 1). A product is 1 (state 0), then for every column i of a key: that
        column, then column i times each column j <= i. Each head's 1 is a column behind those of v:
        float32 of shape `scan_shape(taylor_states(size), columns + 1, heads)`: tensor `name` of the
        `Fixed` state at `where`.
        """
        raise self.lacks("taylor")
