"""`DeviceOps`: every operation computed at once, on tensors of the device.

Nodes of a lowered graph call these by their names. What has no kernel here is the reference
backend's torch operation, which runs on any device.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rbee_worker.ops import Activation, RopeSpec, Routing, Weight
from rbee_worker.ops.batch import Batch, PagedState
from rbee_worker.ops.cuda.angles import Angles
from rbee_worker.ops.cuda.kernels import attention as kernel
from rbee_worker.ops.cuda.kernels.experts.experts import experts
from rbee_worker.ops.cuda.kernels.experts.route import route
from rbee_worker.ops.cuda.kernels.gemv import gemv
from rbee_worker.ops.cuda.kernels.norm import norm
from rbee_worker.ops.cuda.kernels.rowwise import gated, rope
from rbee_worker.ops.cuda.kernels.skinny import skinny
from rbee_worker.ops.cuda.kernels.tables import embed
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.state.specs import StateRef

FEW = 64  # rows that the skinny product takes; cuBLAS takes more


class DeviceOps(ReferenceOps):
    """See `Ops`. pdl: kernels start before the one before has ended, where they can."""

    name = "cuda"

    def __init__(self, device: str, dtype: str, *, pdl: bool) -> None:
        super().__init__(device, dtype)
        self.pdl = pdl
        self.workspace = Workspace(torch.device(device))
        self.angles = Angles(pdl=pdl)

    def begin(self, batch: Batch) -> None:
        """A new step, whose operations all get `batch`."""
        self.angles.begin()

    # ---- tables

    def embed(self, table: Weight, batch: Batch, *, scale: float = 1.0) -> Tensor:
        x = embed(table.data, batch.tokens, scale=scale, pdl=self.pdl)
        if batch.embeds is not None:
            where, values = batch.embeds
            scaled = values.to(x.dtype) if scale == 1.0 else values.to(x.dtype) * scale
            x = x.index_copy(0, where, scaled)
        return x

    # ---- products

    def product(
        self,
        x: Tensor,
        weight: Weight,
        bias: Tensor | None = None,
        *,
        form: str = "compute",
        **after: Any,
    ) -> Tensor:
        """`linear` with what precedes and follows it; see `kernels.gemv.gemv`. form: of the result,
        as `graph.Form`."""
        return self._product(x, weight, bias, torch.float32 if form == "f32" else None, **after)

    def _product(
        self,
        x: Tensor,
        weight: Weight,
        bias: Tensor | None,
        form: torch.dtype | None,
        **after: Any,
    ) -> Tensor:
        if "norm" not in after:
            x = x.to(self._dtype)
        if not x.is_contiguous():
            x = x.contiguous()
        n = x.shape[0]
        if n == 1:
            form = form or self._dtype
            return gemv(x, weight.data, bias=bias, form=form, pdl=self.pdl, **after)
        before = after.pop("norm", None)
        if before is not None:
            x = norm(x, *before, form=self._dtype, pdl=self.pdl)[0]
        if 1 < n <= FEW and self._dtype != torch.float32:
            return skinny(
                x, weight.data, self.workspace, bias=bias, form=form, pdl=self.pdl, **after
            )
        return self._many(x, weight.data, bias, form, **after)

    def _many(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        form: torch.dtype | None,
        *,
        residual: Tensor | None = None,
        gated: str | None = None,
        act: str = "none",
    ) -> Tensor:
        """A product of many rows, by cuBLAS."""
        if residual is not None and bias is None and gated is None and act == "none":
            return torch.addmm(residual, x, weight.t()).to(form or x.dtype)
        y = F.linear(x, weight)
        if bias is not None:
            y = (y.float() + bias).to(x.dtype)
        if gated is not None:
            y = self.gated(y, gated)  # type: ignore[arg-type]
        elif act != "none":
            y = self.act(y, act)  # type: ignore[arg-type]
        if residual is not None:
            y = y + residual
        return y.to(form or x.dtype)

    def linear(
        self, x: Tensor, weight: Weight, bias: Tensor | None = None, *, precise: bool = False
    ) -> Tensor:
        return self.product(x, weight, bias)

    def logits(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        return self.product(x, weight, bias, form="f32")

    # ---- norms and rows

    def rms_norm(self, x: Tensor, weight: Tensor | None, eps: float, *, heads: int = 1) -> Tensor:
        return norm(x, weight, eps, form=self._dtype, heads=heads, pdl=self.pdl)[0]

    def layer_norm(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, *, heads: int = 1
    ) -> Tensor:
        return norm(
            x, weight, eps, bias=bias, layer=True, form=self._dtype, heads=heads, pdl=self.pdl
        )[0]

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        form = torch.promote_types(x.dtype, residual.dtype)
        return norm(
            x, weight, eps, added=residual, sum_form=form, form=self._dtype, pdl=self.pdl
        )

    def gated(self, gate_up: Tensor, kind: Activation) -> Tensor:
        return gated(gate_up, kind, pdl=self.pdl)

    def rope(self, x: Tensor, spec: RopeSpec, batch: Batch, *, heads: int) -> Tensor:
        turned = rope(
            x,
            self.angles.of(spec, batch),
            heads=heads,
            interleaved=spec.interleaved,
            pdl=self.pdl,
        )
        return turned

    def attend(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        where: StateRef,
        batch: Batch,
        *,
        heads: int,
        scale: float,
        window: int | None = None,
        chunk: int | None = None,
        softcap: float | None = None,
        slopes: Tensor | None = None,
        sinks: Tensor | None = None,
        causal: bool = True,
    ) -> Tensor:
        keys, values, state = self._cache(where, batch)
        if k is not None:
            new = None if values.shape[3] == 0 else v
            kernel.write_kv(k, new, keys, values, state.slots, pdl=self.pdl)
        latent = None
        if values.shape[3] == 0:
            assert v is not None
            latent = v.shape[1] // keys.shape[2]
        lens = batch.kv_lens if state.lens is None else state.lens
        return kernel.attend(
            q,
            keys,
            None if latent else values,
            state.table,
            batch.seq_starts,
            lens,
            batch.positions,
            workspace=self.workspace,
            longest_rows=_longest_rows(batch),
            longest_keys=state.table.shape[1] * keys.shape[1],
            heads=heads,
            scale=scale,
            window=window,
            chunk=chunk,
            softcap=softcap,
            slopes=slopes,
            sinks=sinks,
            causal=causal,
            values=latent,
            pdl=self.pdl,
        )

    def _cache(self, where: StateRef, batch: Batch) -> tuple[Tensor, Tensor, PagedState]:
        """A layer's keys and values, and where the step's sequences have theirs."""
        state = batch.state[where.group]
        assert isinstance(state, PagedState)
        return state.k[where.layer], state.v[where.layer], state

    def attend_packed(
        self,
        qkv: Tensor,
        where: StateRef,
        batch: Batch,
        *,
        heads: int,
        kv_heads: int,
        spec: RopeSpec | None,
        q_norm: tuple[Tensor, float] | None,
        k_norm: tuple[Tensor, float] | None,
        **options: Any,
    ) -> Tensor:
        """`attend` from the packed projection [N, (heads + 2 * kv_heads) * width] on: norms of the
        heads, rotary positions, writing keys and values, attention."""
        keys, values, state = self._cache(where, batch)
        before: dict[str, Any] = {"heads": heads, "pdl": self.pdl}
        if spec is not None:
            before |= {"rope_dim": spec.dim, "interleaved": spec.interleaved}
        if q_norm is not None and k_norm is not None:
            before |= {"q_norm": q_norm[0], "k_norm": k_norm[0], "eps": q_norm[1]}
        angles = None if spec is None else self.angles.of(spec, batch)
        longest = state.table.shape[1] * keys.shape[1]
        if _longest_rows(batch) == 1:
            return kernel.attend_decode(
                qkv,
                keys,
                values,
                state.table,
                batch.kv_lens,
                state.slots,
                angles,
                workspace=self.workspace,
                longest_keys=longest,
                kv_heads=kv_heads,
                k_dim=keys.shape[3],
                **before,
                **options,
            )
        q = kernel.split_rope_write(qkv, keys, values, state.slots, angles, **before)
        return self.attend(q, None, None, where, batch, heads=heads, **options)

    # ---- mixture of experts

    def route(
        self,
        logits: Tensor,
        routing: Routing,
        *,
        bias: Tensor | None = None,
        scales: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        return route(logits.float(), routing, bias, scales, pdl=self.pdl)

    def experts(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor | None,
        up: Weight,
        down: Weight,
        kind: Activation,
        *,
        up_bias: Tensor | None = None,
        down_bias: Tensor | None = None,
        limit: float | None = None,
    ) -> Tensor:
        return experts(
            x.to(self._dtype).contiguous(),
            ids,
            weights,
            up.data,
            down.data,
            kind,
            up_bias=up_bias,
            down_bias=down_bias,
            limit=limit,
            pdl=self.pdl,
        )


def _longest_rows(batch: Batch) -> int:
    """The rows of the sequence that has most in this step."""
    starts = batch.seq_starts_host
    if len(starts) - 1 == starts[-1]:
        return 1
    return max(b - a for a, b in pairwise(starts))


# Operations of `Ops` with kernels of this backend's own; the others are torch's.
NATIVE = frozenset(
    {"embed", "linear", "logits", "rms_norm", "layer_norm", "add_rms_norm", "gated", "rope", "attend",
     "route", "experts"}
)
