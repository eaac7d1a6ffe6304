"""Attention and rotary positions, from the packed projection on: which kernel computes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Batch, PagedState
from rbee_worker.ops.cuda.angles import Angles
from rbee_worker.ops.cuda.kernels import attention as kernel
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from rbee_worker.ops.cuda.rows import longest_rows, new_sequences, row_counts
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.state.specs import StateRef


class AttentionOps(ReferenceOps):
    """The part of `DeviceOps` that attends."""

    pdl: bool
    fixed: bool
    workspace: Workspace
    angles: Angles

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
            until=batch.until if causal else None,
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
        heads, rotary positions, writing keys and values, attention. Sequences that begin in this
        step have no older keys: those at the step's end may be computed by cuDNN."""
        keys, values, state = self._cache(where, batch)
        before: dict[str, Any] = {"heads": heads, "pdl": self.pdl}
        if spec is not None:
            before |= {"rope_dim": spec.dim, "interleaved": spec.interleaved}
        if q_norm is not None and k_norm is not None:
            before |= {"q_norm": q_norm[0], "k_norm": k_norm[0], "eps": q_norm[1]}
        angles = None if spec is None else self.angles.of(spec, batch)
        longest = state.table.shape[1] * keys.shape[1]
        if not self.fixed and batch.until is None and longest_rows(batch) == 1:
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
        first = new_sequences(batch)
        lengths = row_counts(batch)[first:]
        plain = all(one is None for name, one in options.items() if name != "scale")
        plain = plain and batch.until is None and not self.fixed
        if not (plain and kernel.takes_prompts(qkv, keys, values, lengths)):
            q = kernel.split_rope_write(qkv, keys, values, state.slots, angles, **before)
            return self.attend(q, None, None, where, batch, heads=heads, **options)
        k = qkv.new_empty((qkv.shape[0], kv_heads * keys.shape[3]))
        q = kernel.split_rope_write(qkv, keys, values, state.slots, angles, keys=k, **before)
        v = qkv[:, -k.shape[1] :]
        scale, rows = options["scale"], batch.seq_starts_host[first]
        if not first:
            return kernel.attend_prompts(q, k, v, lengths, heads=heads, scale=scale)
        out = torch.empty_like(q)
        out[:rows] = kernel.attend(
            q[:rows],
            keys,
            values,
            state.table[:first],
            batch.seq_starts[: first + 1],
            batch.kv_lens[:first],
            batch.positions[:rows],
            workspace=self.workspace,
            longest_rows=max(row_counts(batch)[:first]),
            longest_keys=longest,
            heads=heads,
            scale=scale,
            pdl=self.pdl,
        )
        new = slice(rows, None)
        kernel.attend_prompts(
            q[new], k[new], v[new], lengths, heads=heads, scale=scale, out=out[new]
        )
        return out
