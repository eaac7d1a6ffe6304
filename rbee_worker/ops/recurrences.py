"""The operations of `Ops` that go on from a sequence's fixed state: convolutions and recurrences.

Each takes rows of a ragged batch, begins with what a sequence's slot holds, and leaves there what
its next step begins with. Rows of a sequence are taken in order, each with the same roundings, so
its results depend bitwise on its own sequence alone, however that is cut into steps.
What a scan keeps or reads of each column and state lies in cells (`ops/cells.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbee_worker.ops import Activation
    from rbee_worker.ops.batch import Array, Batch
    from rbee_worker.state.specs import StateRef


class Recurrences(ABC):
    """A part of `Ops`. where, name: which tensor of the `Fixed` state at `where` keeps it."""

    @abstractmethod
    def linear_scan(
        self, x: Array, decay: Array, where: StateRef, name: str, batch: Batch
    ) -> Array:
        """h_t = decay_t * h_{t-1} + x_t, number by number over the rows of each sequence.

        x, decay [N, width] -> every h_t [N, width]. The state is h after the last row, float32
        [width]. The product and the sum are rounded to float32 each.
        """

    @abstractmethod
    def causal_conv(
        self,
        x: Array,
        taps: Array,
        bias: Array | None,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        kind: Activation | None,
    ) -> Array:
        """act(bias + sum over k of taps[k] * x_{t - K + 1 + k}) of each column alone, over the rows
        of each sequence; kind None: no activation.

        x [N, width] -> the same shape. taps: float32 [K * width], those of the oldest row first;
        bias: float32 [width]. The state is the last K - 1 rows of x, oldest first, float32
        [K - 1, width]. Products and sums are rounded to float32 each, the oldest row's first, the
        bias's last.
        """

    @abstractmethod
    def selective_scan(
        self,
        x: Array,
        dt: Array,
        b: Array,
        c: Array,
        gate: Array,
        rates: Array,
        skip: Array,
        where: StateRef,
        name: str,
        batch: Batch,
    ) -> Array:
        """Mamba's recurrence (Gu & Dao 2023, algorithm 2): for each column i of x and state n,

            h_t[n, i] = exp(s_t[i] * rates[n, i]) * h_{t-1}[n, i] + s_t[i] * x_t[i] * b_t[n]
            y_t[i] = (sum over n of h_t[n, i] * c_t[n] + skip[i] * x_t[i]) * silu(gate_t[i])

        where s = log(1 + exp(dt)). x, dt, gate [N, width], b, c [N, states] -> y [N, width]. rates:
        float32 [states, width] in cells (`by_cell`), none above zero; skip: float32 [width]. The
        state is h, float32 `scan_shape(states, width)`.
        """

    @abstractmethod
    def ssd(
        self,
        x: Array,
        dt: Array,
        b: Array,
        c: Array,
        gate: Array,
        bias: Array,
        rates: Array,
        skip: Array,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        groups: int = 1,
    ) -> Array:
        """Mamba 2's recurrence (Dao & Gu 2024, section 6): that of `selective_scan`, but all states
        and columns of a head share a step and a rate, and the heads of a group b and c,

            h_t[n, i] = exp(s_t * rate) * h_{t-1}[n, i] + s_t * x_t[i] * b_t[n]

        with s = log(1 + exp(dt + bias)). dt [N, heads]; x, gate [N, heads * columns], head by head;
        b, c [N, groups * states] -> y as x. bias, rates (none above zero), skip: float32 [heads].
        The state is h, float32 `scan_shape(states, columns, heads)`.
        """
