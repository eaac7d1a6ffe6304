"""`RecurrenceOps`: the operations with a fixed state per sequence, recorded into a graph."""

from __future__ import annotations

from rbee_worker.ops import Activation
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.graph.graph import BATCH
from rbee_worker.ops.graph.nodes import NodeOps, has_width
from rbee_worker.state.specs import StateRef


class RecurrenceOps(NodeOps):
    """See `ops/recurrences.py` and its neighbours: `rg_lru.py`, `gated_delta.py`, `taylor.py`,
    `wkv.py`."""

    def linear_scan(
        self, x: Array, decay: Array, where: StateRef, name: str, batch: Batch
    ) -> Array:
        return self._one("linear_scan", (x, decay, where, name, BATCH), x.width)

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
        return self._one("causal_conv", (x, taps, bias, where, name, BATCH), x.width, kind=kind)

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
        args = (x, dt, b, c, gate, rates, skip, where, name, BATCH)
        return self._one("selective_scan", args, x.width)

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
        args = (x, dt, b, c, gate, bias, rates, skip, where, name, BATCH)
        return self._one("ssd", args, x.width, groups=groups)

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
        args = (x, into, passing, into_bias, passing_bias, rates, where, name, BATCH)
        return self._one("rg_lru", args, x.width)

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
        args = (q, k, v, dt, beta, bias, rates, where, name, BATCH)
        return self._one("gated_delta", args, v.width, groups=groups)

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
        has_width(k, q.width)
        return self._one("taylor", (q, k, v, where, name, BATCH), v.width, v.form, heads=heads)

    # ---- RWKV

    def previous(self, x: Array, where: StateRef, name: str, batch: Batch) -> Array:
        return self._one("previous", (x, where, name, BATCH), x.width, x.form)

    def lerp(self, x: Array, y: Array, factors: Array | None, moving: Array | None = None) -> Array:
        has_width(y, x.width)
        if moving is None:
            assert factors is not None
            width = factors.shape[0]
        else:
            width = moving.width
        assert width % x.width == 0
        return self._one("lerp", (x, y, factors, moving), width, x.form)

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
        args = (r, k, v, decay, base, bonus, where, name, BATCH)
        return self._one("wkv", args, v.width, v.form, heads=heads)

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
        args = (r, k, v, decay, rate, removal, renewal, bonus, where, name, BATCH)
        y, z = self._node("wkv_delta", args, (v.width, v.width), v.form, heads=heads)
        return y, z
