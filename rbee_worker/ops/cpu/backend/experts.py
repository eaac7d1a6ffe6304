"""Mixtures of experts, and matrices per head: what the cpu backend records for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops import Activation, Routing, Weight
from rbee_worker.ops.batch import Array
from rbee_worker.ops.cpu.runtime.recorder import ALL, Buf, Touch, reads, writes
from rbee_worker.ops.cpu.runtime.recording import (
    RecordingOps,
    buf_of,
    equal_parts,
    pointer,
    slot_of,
)
from rbee_worker.ops.cpu.runtime.stack import Stack, StackPart, hold_stack, weight_of
from rbee_worker.ops.cpu.shared import expert_lists
from rbee_worker.ops.cpu.shared.forms import BYTES, CELL, natural, parse, variant
from rbee_worker.ops.cpu.shared.regions import Region


class ExpertOps(RecordingOps):
    """The part of `CpuOps` with several matrices of one shape."""

    def stack(self, members: Sequence[Sequence[Packed]]) -> Weight:
        return weight_of(hold_stack(self.holder.hold, members))

    def heads_linear(self, x: Array, weight: Weight) -> Array:
        source = buf_of(x, weight.count * weight.cols)
        stack: Stack = weight.data
        y = self.now.recorder.buffer(weight.count * weight.rows)
        for part in stack.parts:
            form, name = self._stack_form(part)
            to = y.columns(part.first, y.width - part.first)
            if weight.cols % CELL == 0:
                token = source.width // CELL * BYTES[form]
                given = self._prepare(source, form)
                self._stacked(
                    name, part, weight, given, token, to, y_each=weight.rows, members=weight.count
                )
                continue
            for h in range(weight.count):  # a head's columns are not whole blocks
                given = self._prepare(source.columns(h * weight.cols, weight.cols), form)
                one = y.columns(h * weight.rows + part.first, part.rows)
                token = -(-weight.cols // CELL) * BYTES[form]
                self._stacked(name, part, weight, given, token, one, first=h, members=1)
        return y

    def _stack_form(self, part: StackPart) -> tuple[str, str]:
        """The form of the activations in a part's product, and the kernel's variant."""
        form = "exact" if self.exact else natural(part.held)
        return form, variant(part.held, form)

    def _stacked(
        self,
        name: str,
        part: StackPart,
        weight: Weight,
        given: Region,
        token: int,
        y: Buf,
        *,
        y_each: int = 0,
        first: int = 0,
        members: int = 0,
        lists: Region | None = None,
        **fields: Any,
    ) -> None:
        """Call a product kernel: for `members` matrices from `first` on, or those in `lists`."""
        form = parse(name)[1]
        others = [r for r in (lists, *fields.values()) if isinstance(r, Region)]
        values: dict[str, Any] = {"by_token": 0, "tokens": 0, "bias": 0, "bias_each": 0} | {
            k: slot_of(v) if isinstance(v, Region) else v for k, v in fields.items()
        }
        self.now.recorder.call(
            f"stacked.{name}",
            [Touch(r.place, ALL, False) for r in (given, *others)] + [writes(y, ALL)],
            w=part.at[first:],
            members=members,
            x=slot_of(given),
            x_each=weight.cols // CELL * expert_lists.TILE * BYTES[form],
            token=token,
            lists=0 if lists is None else slot_of(lists),
            y=y.slot,
            y_each=y_each,
            stride=y.stride,
            cols=weight.cols,
            rows=part.rows,
            **self._reading(f"stacked.{name}"),
            **values,
        )

    def route(
        self,
        logits: Array,
        routing: Routing,
        *,
        bias: Array | None = None,
        scales: Array | None = None,
    ) -> tuple[Array, Array]:
        source, rec = buf_of(logits), self.now.recorder
        count, r = source.width, routing
        size = equal_parts(count, r.groups)
        assert 0 < r.top_k <= r.top_groups * size
        assert 0 < r.top_groups <= r.groups
        assert r.score != "sparsemixer" or (r.top_k == 2 and r.groups == 1 and bias is None)
        assert r.group_score == "best" or size > 1
        ids, weights = rec.buffer(r.top_k), rec.buffer(r.top_k)
        scratch_bytes = -(-(12 * count + 8 * r.groups) // 64) * 64
        scratch = rec.region(self.team.threads * scratch_bytes)
        rec.call(
            f"route.{r.score}",
            [reads(source), Touch(scratch.place, ALL, True), writes(ids), writes(weights)],
            x=source.slot,
            x_stride=source.stride,
            ids=ids.slot,
            ids_stride=ids.stride,
            y=weights.slot,
            y_stride=weights.stride,
            bias=pointer(bias),
            scales=pointer(scales),
            count=count,
            top=r.top_k,
            groups=r.groups,
            keep=r.top_groups,
            two=int(r.group_score == "best two"),
            normalise=int(r.normalise),
            scale=r.scale,
            jitter=r.jitter,
            floor=r.floor,
            scratch=slot_of(scratch),
            scratch_bytes=scratch_bytes,
        )
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
        rec, source, chose = self.now.recorder, buf_of(x, up.cols), buf_of(ids)
        gated = up.rows == 2 * down.cols
        assert gated or (up.rows == down.cols and limit is None)
        assert up.count == down.count
        slots = expert_lists.slots(rec.rows, chose.width, up.count)
        lists, tokens, places = self._group(chose, up.count, slots)
        ups: Stack = up.data
        downs: Stack = down.data
        hidden = self._slots(up.rows, slots)
        for form in dict.fromkeys(self._stack_form(p)[0] for p in ups.parts):
            by_token = self._prepare(source, form)
            given = self._gather(source, by_token, form, lists, tokens, slots)
            token = -(-up.cols // CELL) * BYTES[form]
            for part in ups.parts:
                if self._stack_form(part)[0] == form:
                    self._stacked(
                        self._stack_form(part)[1], part, up, given, token,
                        hidden.columns(part.first, part.rows), lists=lists, by_token=by_token,
                        tokens=tokens, bias=_of_part(up_bias, part), bias_each=up.rows,
                    )  # fmt: skip
        results = self._slots(down.rows, slots)
        for form in dict.fromkeys(self._stack_form(p)[0] for p in downs.parts):
            token = -(-down.cols // CELL) * BYTES[form]
            given = rec.region(slots * token)
            rec.call(
                f"expert_slots.gate-{kind}-{form}",
                [
                    Touch(lists.place, ALL, False),
                    reads(hidden, ALL),
                    Touch(given.place, ALL, True),
                ],
                lists=slot_of(lists),
                x=hidden.slot,
                stride=hidden.stride,
                width=down.cols,
                gated=int(gated),
                limit=limit or 0.0,
                out=slot_of(given),
            )
            for part in downs.parts:
                if self._stack_form(part)[0] == form:
                    self._stacked(
                        self._stack_form(part)[1], part, down, given, token,
                        results.columns(part.first, part.rows), lists=lists,
                        bias=_of_part(down_bias, part), bias_each=down.rows,
                    )  # fmt: skip
        return self._sum(results, places, weights, chose.width)

    def _slots(self, width: int, slots: int) -> Buf:
        """An activation with one row per slot."""
        return Buf(self.now.recorder.region(4 * width * slots), width, width)

    def _group(self, ids: Buf, count: int, slots: int) -> tuple[Region, Region, Region]:
        """The lists, tokens and places that `expert_lists.py` describes."""
        rec = self.now.recorder
        lists = rec.region(expert_lists.list_bytes(rec.rows, ids.width, count))
        tokens, places = rec.region(4 * slots), rec.region(4 * rec.rows * ids.width)
        counts = rec.region(8 * count)
        rec.call(
            "expert_slots.group",
            [
                reads(ids, ALL),
                *(Touch(r.place, ALL, True) for r in (lists, tokens, places, counts)),
            ],
            ids=ids.slot,
            ids_stride=ids.stride,
            top=ids.width,
            count=count,
            counts=slot_of(counts),
            lists=slot_of(lists),
            tokens=slot_of(tokens),
            places=slot_of(places),
        )
        return lists, tokens, places

    def _gather(
        self, x: Buf, ready: Region, form: str, lists: Region, tokens: Region, slots: int
    ) -> Region:
        """Prepared activations by slot, gathered from those by row."""
        blocks = -(-x.width // CELL)
        given = self.now.recorder.region(slots * blocks * BYTES[form])
        self.now.recorder.call(
            f"expert_slots.gather-{form}",
            [
                *(Touch(r.place, ALL, False) for r in (lists, tokens, ready)),
                Touch(given.place, ALL, True),
            ],
            lists=slot_of(lists),
            tokens=slot_of(tokens),
            x=slot_of(ready),
            blocks=blocks,
            out=slot_of(given),
        )
        return given

    def _sum(self, results: Buf, places: Region, weights: Array | None, top: int) -> Buf:
        rec = self.now.recorder
        y = rec.buffer(results.width)
        by = None if weights is None else buf_of(weights, top)
        rec.call(
            "expert_slots.sum",
            [
                reads(results, ALL),
                Touch(places.place, ALL, False),
                *([] if by is None else [reads(by)]),
                writes(y),
            ],
            x=results.slot,
            x_stride=results.stride,
            places=slot_of(places),
            top=top,
            weights=0 if by is None else by.slot,
            weights_stride=0 if by is None else by.stride,
            y=y.slot,
            y_stride=y.stride,
            width=results.width,
        )
        return y


def _of_part(bias: Array | None, part: StackPart) -> Any:
    return 0 if bias is None else bias[part.first :]
