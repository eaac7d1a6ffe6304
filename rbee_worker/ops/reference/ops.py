"""The reference backend: plain torch, any device, the definition of correct results.

Every row of a result depends bitwise on its own sequence only. BLAS libraries choose another
summation order for another number of rows, so matrix products always run on tiles of one fixed
height: 16 rows for `linear`, 16 queries by 256 keys for attention. Neither the other rows of a tile
nor the number of tiles affects a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rbee_worker.checkpoint.decoding import as_floats
from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops import Activation, RopeSpec, Routing, Weight
from rbee_worker.ops.adapted import Sites
from rbee_worker.ops.batch import Batch, PagedState
from rbee_worker.ops.reference.adapters import AdapterOps
from rbee_worker.ops.reference.attention import Keys, Mask, attend
from rbee_worker.ops.reference.dequant import dequantize
from rbee_worker.ops.reference.experts import activate, add_bias, experts, gate, product, route
from rbee_worker.ops.reference.gated_delta import GatedDeltaOps
from rbee_worker.ops.reference.recurrence import RecurrenceOps
from rbee_worker.ops.reference.rg_lru import RgLruOps
from rbee_worker.ops.reference.sampling.torch_sampling import TorchSampling
from rbee_worker.ops.reference.taylor import TaylorOps
from rbee_worker.ops.reference.wkv import WkvOps
from rbee_worker.state.specs import StateRef

DTYPES: dict[str, torch.dtype] = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
}


class ReferenceOps(RecurrenceOps, RgLruOps, GatedDeltaOps, TaylorOps, WkvOps, AdapterOps):
    """See `Ops` for the meaning of each operation."""

    name = "reference"

    def __init__(
        self, device: str = "cpu", dtype: str = "f32", *, sites: Sites | None = None
    ) -> None:
        self.device, self.sites = device, sites
        self.dtype = dtype
        self._dtype = DTYPES[dtype]

    def sampling(self, vocab_size: int) -> TorchSampling:
        return TorchSampling(torch.device(self.device))

    # ---- weights: every packed tensor is expanded once, to the compute dtype

    def matrix(self, parts: Sequence[Packed]) -> Weight:
        whole = self.stack([parts])
        return replace(whole, data=whole.data[0])

    def stack(self, members: Sequence[Sequence[Packed]]) -> Weight:
        first = members[0]
        rows, cols = sum(p.shape[0] for p in first), first[0].shape[1]
        data = torch.empty((len(members), rows, cols), dtype=self._dtype, device=self.device)
        for member, parts in zip(data, members, strict=True):
            start = 0
            for part in parts:
                member[start : start + part.shape[0]] = dequantize(part)
                start += part.shape[0]
            assert start == rows
        formats = "+".join(dict.fromkeys(p.format for p in first))
        return Weight(data, rows, cols, formats, self.dtype, data.nbytes, len(members))

    def vector(self, parts: Sequence[Packed]) -> Tensor:
        return torch.cat([dequantize(p).reshape(-1) for p in parts]).to(self.device)

    def floats(self, packed: Packed) -> Packed:
        return as_floats(packed, threads=torch.get_num_threads())

    def weights_done(self) -> None:
        pass

    # ---- dense

    def embed(self, table: Weight, batch: Batch, *, scale: float = 1.0) -> Tensor:
        x: Tensor = table.data[batch.tokens]
        return x if scale == 1.0 else x * torch.tensor(scale, dtype=x.dtype)

    def with_features(self, x: Tensor, batch: Batch) -> Tensor:
        if batch.features is None:
            return x
        rows, values = batch.features
        return torch.where(rows[:, None] < 0, x, values[rows.clamp(min=0)].to(x.dtype))

    def add_positions(self, x: Tensor, table: Weight, batch: Batch, *, offset: int = 0) -> Tensor:
        rows: Tensor = table.data[batch.positions + offset]
        return x + rows

    def add_segments(self, x: Tensor, table: Weight, batch: Batch) -> Tensor:
        rows: Tensor = table.data[
            0 if batch.segments is None or table.rows == 1 else batch.segments
        ]
        return x + rows

    def linear(
        self, x: Tensor, weight: Weight, bias: Tensor | None = None, *, precise: bool = False
    ) -> Tensor:
        return add_bias(product(x, weight.data), bias)

    def logits(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        out = self.linear(x, weight).float()
        return out if bias is None else out + bias

    def heads_linear(self, x: Tensor, weight: Weight) -> Tensor:
        parts = torch.split(x, weight.cols, dim=1)
        return torch.cat([product(p, w) for p, w in zip(parts, weight.data, strict=True)], dim=1)

    def split(self, x: Tensor, widths: Sequence[int], *, heads: int = 1) -> tuple[Tensor, ...]:
        by_head = x.reshape(x.shape[0], heads, sum(widths))
        return tuple(p.flatten(1) for p in torch.split(by_head, list(widths), dim=2))

    def concat(self, parts: Sequence[Tensor], *, heads: int = 1) -> Tensor:
        return torch.cat([_by_head(p, heads) for p in parts], dim=2).flatten(1)

    # ---- norms

    def rms_norm(self, x: Tensor, weight: Tensor | None, eps: float, *, heads: int = 1) -> Tensor:
        y = _by_head(x.float(), heads)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
        return (y if weight is None else y * weight).reshape(x.shape).to(self._dtype)

    def layer_norm(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, *, heads: int = 1
    ) -> Tensor:
        y = _by_head(x.float(), heads)
        y = y - y.mean(-1, keepdim=True)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
        if weight is not None:
            y = y * weight.view(-1, y.shape[-1])
        if bias is not None:
            y = y + bias.view(-1, y.shape[-1])
        return y.reshape(x.shape).to(self._dtype)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        total = x + residual
        return self.rms_norm(total, weight, eps), total

    # ---- elementwise

    def add(self, x: Tensor, y: Tensor, *, wide: bool = False) -> Tensor:
        return x.float() + y.float() if wide else x + y

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        assert y.shape[1] in (1, x.shape[1])
        return (x.float() * y.float()).to(x.dtype)

    def scale(self, x: Tensor, factor: float | Tensor) -> Tensor:
        return (x * factor).to(x.dtype)

    def clip(self, x: Tensor, limit: float) -> Tensor:
        return x.clamp(-limit, limit)

    def act(self, x: Tensor, kind: Activation) -> Tensor:
        return activate(x.float(), kind).to(x.dtype)

    def gated(self, gate_up: Tensor, kind: Activation) -> Tensor:
        return gate(gate_up.float(), kind).to(gate_up.dtype)

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return (torch.tanh(x.float() / cap) * cap).to(x.dtype)

    # ---- mixture of experts

    def route(
        self,
        logits: Tensor,
        routing: Routing,
        *,
        bias: Tensor | None = None,
        scales: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        return route(logits.float(), routing, bias, scales)

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
        return experts(x, ids, weights, up.data, down.data, kind, up_bias, down_bias, limit)

    # ---- positions and attention

    def scale_by_position(
        self, x: Tensor, factors: Tensor, batch: Batch, *, every: int = 1, offset: int = 0
    ) -> Tensor:
        index = ((batch.positions + offset) // every).clamp(max=len(factors) - 1)
        return (x.float() * factors[index, None]).to(x.dtype)

    def rope(self, x: Tensor, spec: RopeSpec, batch: Batch, *, heads: int) -> Tensor:
        cos, sin = _angles(spec, batch)  # [tokens, 1, dim / 2]
        y = _by_head(x.float(), heads)
        turn, rest = y[..., : spec.dim], y[..., spec.dim :]
        if spec.interleaved:
            a, b = turn[..., 0::2], turn[..., 1::2]
            turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
        else:
            a, b = turn.chunk(2, dim=-1)
            turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
        return torch.cat((turned, rest), dim=-1).reshape(x.shape).to(x.dtype)

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
        state = batch.state[where.group]
        assert isinstance(state, PagedState)
        keys, values = state.k[where.layer], state.v[where.layer]
        if k is not None:
            _write(k, keys, state)
        if values.shape[3] == 0:
            assert v is not None
            values = keys[..., : v.shape[1] // keys.shape[2]]
        elif v is not None:
            _write(v, values, state)
        lens, lens_host = batch.kv_lens, batch.kv_lens_host
        if state.lens is not None:
            assert not causal
            assert state.lens_host is not None
            lens, lens_host = state.lens, state.lens_host.tolist()
        kv = Keys(keys, values, state.table, lens, lens_host)
        by_distance = None if distances is None else distances.view(heads, -1)
        mask = Mask(window, chunk, softcap, slopes, sinks, causal, by_distance)
        out = attend(_by_head(q.float(), heads), kv, batch, scale=scale, mask=mask)
        return out.flatten(1).to(q.dtype)

    def keep(self, k: Tensor, v: Tensor, where: StateRef, batch: Batch) -> None:
        state = batch.state[where.group]
        assert isinstance(state, PagedState)
        _write(k, state.k[where.layer], state)
        _write(v, state.v[where.layer], state)


def _write(rows: Tensor, cache: Tensor, state: PagedState) -> None:
    """Keys or values [N, heads * dim] into a layer's [blocks, block_size, heads, dim]."""
    cache.flatten(0, 1)[state.slots] = _by_head(rows, cache.shape[2]).to(cache.dtype)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """x [N, heads * width] as [N, heads, width]; N may be 0."""
    return x.reshape(x.shape[0], heads, x.shape[1] // heads)


def _angles(spec: RopeSpec, batch: Batch) -> tuple[Tensor, Tensor]:
    """cos and sin of every row's angles, [N, 1, dim / 2], times magnitude; float32 as in HF."""
    positions = batch.positions.float()[:, None, None]
    freq = torch.tensor(spec.inv_freq, device=positions.device)[None, None]
    magnitude = torch.tensor(spec.magnitude, device=positions.device)
    if spec.dynamic is not None or spec.long_inv_freq is not None:
        lengths = batch.seq_starts.diff()
        rope_lens = batch.rope_lens.repeat_interleave(lengths)[:, None, None]  # [tokens, 1, 1]
        if spec.dynamic is not None:
            freq = _dynamic(spec, rope_lens)
        if spec.long_inv_freq is not None:
            is_long = rope_lens > spec.switch
            freq = torch.where(is_long, torch.tensor(spec.long_inv_freq), freq)
            magnitude = torch.where(is_long, spec.long_magnitude, magnitude)
    angle = positions * freq
    return angle.cos() * magnitude, angle.sin() * magnitude


def _dynamic(spec: RopeSpec, rope_lens: Tensor) -> Tensor:
    """NTK frequencies by length: theta grows so that the longest wave covers the sequence.

    theta * (factor * L / L0 - (factor - 1)) ** (dim / (dim - 2)) for L > L0, else theta.
    """
    assert spec.dynamic is not None
    theta, factor, original = spec.dynamic
    length = rope_lens.clamp(min=original).double()
    base = theta * (factor * length / original - (factor - 1)) ** (spec.dim / (spec.dim - 2))
    exponent = torch.arange(0, spec.dim, 2, device=rope_lens.device).double() / spec.dim
    return (base**-exponent).float()
