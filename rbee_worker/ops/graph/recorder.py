"""`GraphOps`: operations that record a graph. A backend adds what holds weights.

Shapes are checked here, once, while the model is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rbee_worker.ops import Activation, RopeSpec, Routing, Weight
from rbee_worker.ops.adapted import Site
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.graph.graph import BATCH, Form, Node, Value
from rbee_worker.ops.graph.nodes import has_width
from rbee_worker.ops.graph.recurrences import RecurrenceOps
from rbee_worker.state.specs import PagedKV, StateRef


class GraphOps(RecurrenceOps):
    """See `Ops`. adapting: whether the places of adapters are recorded."""

    adapting = True

    # ---- dense

    def embed(self, table: Weight, batch: Batch, *, scale: float = 1.0) -> Array:
        return self._one("embed", (table, BATCH), table.cols, scale=scale)

    def add_positions(self, x: Array, table: Weight, batch: Batch, *, offset: int = 0) -> Array:
        has_width(x, table.cols)
        return self._one("add_positions", (x, table, BATCH), x.width, offset=offset)

    def add_segments(self, x: Array, table: Weight, batch: Batch) -> Array:
        has_width(x, table.cols)
        return self._one("add_segments", (x, table, BATCH), x.width)

    def with_features(self, x: Array, batch: Batch) -> Array:
        return self._one("with_features", (x, BATCH), x.width, x.form)

    def logits(self, x: Array, weight: Weight, bias: Array | None = None) -> Array:
        has_width(x, weight.cols)
        return self._one("logits", (x, weight, bias), weight.rows, "f32")

    def linear(
        self, x: Array, weight: Weight, bias: Array | None = None, *, precise: bool = False
    ) -> Array:
        has_width(x, weight.cols)
        return self._one("linear", (x, weight, bias), weight.rows, precise=precise)

    def adapted(self, y: Array, x: Array, site: Site, batch: Batch) -> Array:
        has_width(x, site.cols)
        if not self.adapting:
            return y
        return self._one("adapted", (y, x, site, BATCH), y.width, y.form)

    def heads_linear(self, x: Array, weight: Weight) -> Array:
        has_width(x, weight.cols * weight.count)
        return self._one("heads_linear", (x, weight), weight.rows * weight.count)

    def split(self, x: Array, widths: Sequence[int], *, heads: int = 1) -> tuple[Array, ...]:
        has_width(x, heads * sum(widths))
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
        has_width(y, x.width)
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
        has_width(x, up.cols)
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
        has_width(q, heads * spec.k_dim)
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
        has_width(k, spec.heads * spec.k_dim)
        has_width(v, spec.heads * spec.v_dim)
        self._node("keep", (k, v, where, BATCH), ())
