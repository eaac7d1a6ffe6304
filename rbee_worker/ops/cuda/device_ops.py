"""`DeviceOps`: every operation computed at once, on tensors of the device.

Nodes of a lowered graph call these by their names. What has no kernel here is the reference
backend's torch operation, which runs on any device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rbee_worker.ops import Activation, RopeSpec, Routing, Weight
from rbee_worker.ops.batch import Batch, PagedState
from rbee_worker.ops.cuda.angles import Angles
from rbee_worker.ops.cuda.kernels import attention as kernel
from rbee_worker.ops.cuda.kernels.experts.experts import experts
from rbee_worker.ops.cuda.kernels.experts.route import route
from rbee_worker.ops.cuda.kernels.norm import norm
from rbee_worker.ops.cuda.kernels.rowwise import rope
from rbee_worker.ops.cuda.kernels.tables import embed
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from rbee_worker.ops.cuda.matrix import DeviceMatrix
from rbee_worker.ops.cuda.product_ops import ProductOps
from rbee_worker.ops.cuda.recurrence_ops import RecurrenceOps
from rbee_worker.ops.cuda.rows import longest_rows, whole_prompts
from rbee_worker.state.specs import StateRef


class DeviceOps(ProductOps, RecurrenceOps):
    """See `Ops`. pdl: kernels start before the one before has ended, where they can."""

    name = "cuda"
    fixed = False  # whether all sums have one order, whatever else is in a step

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
        matrix: DeviceMatrix = table.data
        if matrix.dense is None or matrix.scales is not None:
            x = matrix.rows_of(batch.tokens, self._dtype)
            x = x if scale == 1.0 else x * torch.tensor(scale, dtype=x.dtype)
        else:
            x = embed(matrix.dense, batch.tokens, scale=scale, pdl=self.pdl)
        return x

    def add_positions(self, x: Tensor, table: Weight, batch: Batch, *, offset: int = 0) -> Tensor:
        matrix: DeviceMatrix = table.data
        return x + matrix.rows_of(batch.positions + offset, self._dtype)

    def add_segments(self, x: Tensor, table: Weight, batch: Batch) -> Tensor:
        matrix: DeviceMatrix = table.data
        if batch.segments is None or table.rows == 1:
            return x + matrix.rows_of(torch.zeros_like(batch.positions[:1]), self._dtype)
        return x + matrix.rows_of(batch.segments, self._dtype)

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
        return norm(x, weight, eps, added=residual, sum_form=form, form=self._dtype, pdl=self.pdl)

    def rope(self, x: Tensor, spec: RopeSpec, batch: Batch, *, heads: int) -> Tensor:
        return rope(
            x,
            self.angles.of(spec, batch),
            heads=heads,
            interleaved=spec.interleaved,
            pdl=self.pdl,
        )

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
        distances: Tensor | None = None,
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
            longest_rows=longest_rows(batch),
            longest_keys=state.table.shape[1] * keys.shape[1],
            heads=heads,
            scale=scale,
            window=window,
            chunk=chunk,
            softcap=softcap,
            slopes=slopes,
            sinks=sinks,
            distances=distances,
            causal=causal,
            values=latent,
            pdl=self.pdl,
            **self._tiles(keys.shape[3] + values.shape[3], q.element_size()),
        )

    def _tiles(self, dims: int, element: int) -> dict[str, Any]:
        """Options of `kernel.attend` for keys and values of `dims` columns together."""
        return {}

    def _cache(self, where: StateRef, batch: Batch) -> tuple[Tensor, Tensor, PagedState]:
        """A layer's keys and values, and where the step's sequences have theirs."""
        state = batch.state[where.group]
        assert isinstance(state, PagedState)
        return state.k[where.layer], state.v[where.layer], state

    def keep(self, k: Tensor, v: Tensor, where: StateRef, batch: Batch) -> None:
        keys, values, state = self._cache(where, batch)
        kernel.write_kv(k, v, keys, values, state.slots, pdl=self.pdl)

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
        if not self.fixed and longest_rows(batch) == 1:
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
        lengths = whole_prompts(batch)
        plain = all(one is None for name, one in options.items() if name != "scale")
        if plain and not self.fixed and _cudnn_takes(q, keys, values, lengths):
            size = keys.shape[1]
            place = (state.slots // size, state.slots % size)
            k, v = (cache[place].flatten(1) for cache in (keys, values))
            return kernel.attend_prompts(q, k, v, lengths, heads=heads, scale=options["scale"])
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
        return route(logits, routing, bias, scales, pdl=self.pdl)

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
        residual: Tensor | None = None,
    ) -> Tensor:
        """See `Ops.experts`; residual: added to the result."""
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
            residual=None if residual is None else residual.contiguous(),
            fixed=self.fixed,
            pdl=self.pdl,
        )


_LEAST_PROMPT = 256  # rows from which on cuDNN is faster
_MOST_PROMPTS = 8  # sequences of different lengths: each is a call of its own


def _cudnn_takes(q: Tensor, keys: Tensor, values: Tensor, lengths: list[int]) -> bool:
    """Whether cuDNN computes these whole prompts, and faster than our own kernel."""
    return (
        q.is_cuda
        and q.dtype in (torch.bfloat16, torch.float16)
        and keys.dtype == values.dtype == q.dtype
        and keys.shape[3] == values.shape[3] <= 128
        and keys.shape[3] % 8 == 0
        and min(lengths, default=0) >= _LEAST_PROMPT
        and (len(set(lengths)) == 1 or len(lengths) <= _MOST_PROMPTS)
    )


# Operations of `Ops` with kernels of this backend's own; the others are torch's.
NATIVE = frozenset(
    {
        "embed",
        "linear",
        "logits",
        "rms_norm",
        "layer_norm",
        "add_rms_norm",
        "gated",
        "rope",
        "attend",
        "keep",
        "route",
        "experts",
        "linear_scan",
        "causal_conv",
        "selective_scan",
        "ssd",
        "rg_lru",
        "gated_delta",
        "heads_linear",
        "previous",
        "lerp",
        "wkv",
        "wkv_delta",
    }
)
