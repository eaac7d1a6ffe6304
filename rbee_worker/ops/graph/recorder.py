"""`GraphOps`: operations that record a graph. A backend adds what holds weights.

Shapes are checked here, once, while the model is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rbee_worker.ops import Activation, Ops, RopeSpec, Routing, Weight
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.graph.graph import BATCH, Form, Graph, Node, Value
from rbee_worker.state.specs import PagedKV, StateGroup, StateRef


class GraphOps(Ops):
    """See `Ops`. An activation is a `Value`, and the batch is not looked at."""

    sees = False
    graph: Graph | None = None
    groups: tuple[StateGroup, ...] = ()

    def record(self, groups: tuple[StateGroup, ...], given: Value | None = None) -> Graph:
        """Begin a graph, to which every operation from now on is added."""
        self.graph, self.groups = Graph(given=given), groups
        return self.graph

    def _node(
        self, op: str, args: tuple[Any, ...], widths: Sequence[int], form: Form = "compute",
        **options: Any,
    ) -> tuple[Value, ...]:  # fmt: skip
        assert self.graph is not None, "operations of this backend are only recorded"
        outputs = tuple(Value(width, form) for width in widths)
        self.graph.nodes.append(Node(op, args, options, outputs))
        return outputs

    def _one(
        self, op: str, args: tuple[Any, ...], width: int, form: Form = "compute", **options: Any
    ) -> Value:
        return self._node(op, args, (width,), form, **options)[0]

    # ---- dense

    def embed(self, table: Weight, batch: Batch, *, scale: float = 1.0) -> Array:
        return self._one("embed", (table, BATCH), table.cols, scale=scale)

    def add_positions(self, x: Array, table: Weight, batch: Batch, *, offset: int = 0) -> Array:
        _has(x, table.cols)
        return self._one("add_positions", (x, table, BATCH), x.width, offset=offset)

    def add_segments(self, x: Array, table: Weight, batch: Batch) -> Array:
        _has(x, table.cols)
        return self._one("add_segments", (x, table, BATCH), x.width)

    def logits(self, x: Array, weight: Weight, bias: Array | None = None) -> Array:
        _has(x, weight.cols)
        return self._one("logits", (x, weight, bias), weight.rows, "f32")

    def linear(
        self, x: Array, weight: Weight, bias: Array | None = None, *, precise: bool = False
    ) -> Array:
        _has(x, weight.cols)
        return self._one("linear", (x, weight, bias), weight.rows, precise=precise)

    def heads_linear(self, x: Array, weight: Weight) -> Array:
        _has(x, weight.cols * weight.count)
        return self._one("heads_linear", (x, weight), weight.rows * weight.count)

    def split(self, x: Array, widths: Sequence[int], *, heads: int = 1) -> tuple[Array, ...]:
        _has(x, heads * sum(widths))
        each = [heads * width for width in widths]
        return self._node("split", (x, tuple(widths)), each, x.form, heads=heads)

    def concat(self, parts: Sequence[Array], *, heads: int = 1) -> Array:
        width = sum(part.width for part in parts)
        form: Form = parts[0].form
        return self._one("concat", (tuple(parts),), width, form, heads=heads)

    # ---- norms

    def rms_norm(self, x: Array, weight: Array | None, eps: float, *, heads: int = 1) -> Array:
        assert x.width % heads == 0
        return self._one("rms_norm", (x, weight, eps), x.width, heads=heads)

    def layer_norm(
        self, x: Array, weight: Array | None, bias: Array | None, eps: float, *, heads: int = 1
    ) -> Array:
        assert x.width % heads == 0
        return self._one("layer_norm", (x, weight, bias, eps), x.width, heads=heads)

    def add_rms_norm(
        self, x: Array, residual: Array, weight: Array | None, eps: float
    ) -> tuple[Array, Array]:
        total = self.add(x, residual)
        return self.rms_norm(total, weight, eps), total

    # ---- elementwise

    def add(self, x: Array, y: Array, *, wide: bool = False) -> Array:
        _has(y, x.width)
        form: Form = "f32" if wide or "f32" in (x.form, y.form) else "compute"
        return self._one("add", (x, y), x.width, form, wide=wide)

    def multiply(self, x: Array, y: Array) -> Array:
        assert y.width in (1, x.width)
        return self._one("multiply", (x, y), x.width, x.form)

    def scale(self, x: Array, factor: float | Array) -> Array:
        return self._one("scale", (x, factor), x.width, x.form)

    def clip(self, x: Array, limit: float) -> Array:
        return self._one("clip", (x, limit), x.width, x.form)

    def act(self, x: Array, kind: Activation) -> Array:
        return self._one("act", (x, kind), x.width, x.form)

    def gated(self, gate_up: Array, kind: Activation) -> Array:
        assert gate_up.width % 2 == 0
        return self._one("gated", (gate_up, kind), gate_up.width // 2, gate_up.form)

    def softcap(self, x: Array, cap: float) -> Array:
        return self._one("softcap", (x, cap), x.width, x.form)

    # ---- mixture of experts

    def route(
        self,
        logits: Array,
        routing: Routing,
        *,
        bias: Array | None = None,
        scales: Array | None = None,
    ) -> tuple[Array, Array]:
        ids, weights = Value(routing.top_k, "ids"), Value(routing.top_k, "f32")
        assert self.graph is not None
        options = {"bias": bias, "scales": scales}
        self.graph.nodes.append(Node("route", (logits, routing), options, (ids, weights)))
        return ids, weights

    def experts(
        self,
        x: Array,
        ids: Array,
        weights: Array | None,
        up: Weight,
        down: Weight,
        kind: Activation,
        *,
        up_bias: Array | None = None,
        down_bias: Array | None = None,
        limit: float | None = None,
    ) -> Array:
        _has(x, up.cols)
        assert up.rows in (down.cols, 2 * down.cols)
        args = (x, ids, weights, up, down, kind)
        options: dict[str, Any] = {"up_bias": up_bias, "down_bias": down_bias, "limit": limit}
        return self._one("experts", args, down.rows, **options)

    # ---- positions and attention

    def scale_by_position(
        self, x: Array, factors: Array, batch: Batch, *, every: int = 1, offset: int = 0
    ) -> Array:
        args = (x, factors, BATCH)
        return self._one("scale_by_position", args, x.width, x.form, every=every, offset=offset)

    def rope(self, x: Array, spec: RopeSpec, batch: Batch, *, heads: int) -> Array:
        assert x.width % heads == 0
        assert 0 < spec.dim <= x.width // heads
        return self._one("rope", (x, spec, BATCH), x.width, heads=heads)

    def attend(
        self,
        q: Array,
        k: Array | None,
        v: Array | None,
        where: StateRef,
        batch: Batch,
        *,
        heads: int,
        scale: float,
        window: int | None = None,
        chunk: int | None = None,
        softcap: float | None = None,
        slopes: Array | None = None,
        sinks: Array | None = None,
        distances: Array | None = None,
        causal: bool = True,
    ) -> Array:
        spec = self.groups[where.group].spec
        assert isinstance(spec, PagedKV)
        _has(q, heads * spec.k_dim)
        assert k is None or k.width == spec.heads * spec.k_dim
        values = spec.v_dim
        if not values:
            assert v is not None
            values = v.width // spec.heads
        return self._one(
            "attend",
            (q, k, v, where, BATCH),
            heads * values,
            heads=heads,
            scale=scale,
            window=window,
            chunk=chunk,
            softcap=softcap,
            slopes=slopes,
            sinks=sinks,
            distances=distances,
            causal=causal,
        )

    def keep(self, k: Array, v: Array, where: StateRef, batch: Batch) -> None:
        spec = self.groups[where.group].spec
        assert isinstance(spec, PagedKV)
        _has(k, spec.heads * spec.k_dim)
        _has(v, spec.heads * spec.v_dim)
        self._node("keep", (k, v, where, BATCH), ())

    # ---- recurrences

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

    # ---- RWKV

    def previous(self, x: Array, where: StateRef, name: str, batch: Batch) -> Array:
        return self._one("previous", (x, where, name, BATCH), x.width, x.form)

    def lerp(self, x: Array, y: Array, factors: Array | None, moving: Array | None = None) -> Array:
        _has(y, x.width)
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


def _has(x: Array, width: int) -> None:
    assert isinstance(x, Value), "an activation of another backend"
    assert x.width == width, f"{x.width} columns, expected {width}"
