"""The operations of `Ops` with a fixed state per sequence: convolutions and recurrences.

Each computes rows of a ragged batch. It starts from the state in the slot of each sequence and
stores there the state after the sequence's last row. Rows of a sequence are computed in order, each
with the same roundings, so a row's result depends bitwise on its own sequence only, however that is
split into steps. Numbers per column and state lie in cells (`ops/cells.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbee_worker.ops import Activation
    from rbee_worker.ops.batch import Array, Batch
    from rbee_worker.state.specs import StateRef


class Recurrences(ABC):
    """A part of `Ops`. The state is tensor `name` of the `Fixed` state at `where`."""

    @abstractmethod
    def linear_scan(
        self, x: Array, decay: Array, where: StateRef, name: str, batch: Batch
    ) -> Array:
        """h_t = decay_t * h_{t-1} + x_t, per number, over the rows of each sequence.

        x, decay [N, width] -> every h_t [N, width]. The state is h, float32 [width]. Product and
        sum are each rounded to float32.
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
        """act(bias + sum over k of taps[k] * x_{t - K + 1 + k}) per column, over the rows of each
        sequence; kind None: no activation.

        x [N, width] -> the same shape. taps: float32 [K * width], the oldest row's first; bias:
        float32 [width]. The state is the last K - 1 rows of x, oldest first, float32
        [K - 1, width]. Products and sums are each rounded to float32, starting with the oldest row;
        the bias is added last.
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
        """Mamba's recurrence (Gu & Dao 2023, algorithm 2). For each column i of x and state n

            h_t[n, i] = exp(s_t[i] * rates[n, i]) * h_{t-1}[n, i] + s_t[i] * x_t[i] * b_t[n]
            y_t[i] = (sum over n of h_t[n, i] * c_t[n] + skip[i] * x_t[i]) * silu(gate_t[i])

        where s = log(1 + exp(dt)). x, dt, gate [N, width], b, c [N, states] -> y [N, width]. rates:
        float32 [states, width] in cells (`by_cell`), none positive; skip: float32 [width]. The
        state is h, float32 of shape `scan_shape(states, width)`.
        """

    @abstractmethod
    def ssd(
        self,
        x: Array,
        dt: Array,
        b: Array,
        c: Array,
        gate: Array | None,
        bias: Array,
        rates: Array,
        skip: Array,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        groups: int = 1,
    ) -> Array:
        """Mamba 2's recurrence (Dao & Gu 2024, section 6): as `selective_scan`, but all states and
        columns of a head share a step and a rate, and the heads of a group share b and c,

            h_t[n, i] = exp(s_t * rate) * h_{t-1}[n, i] + s_t * x_t[i] * b_t[n]

        with s = log(1 + exp(dt + bias)); gate None: y is not gated. dt [N, heads]; x, gate
        [N, heads * columns], head by head; b, c [N, groups * states] -> y, shaped as x. bias, rates
        (none positive), skip: float32 [heads]. The state is h, float32 of shape
        `scan_shape(states, columns, heads)`.
        """
