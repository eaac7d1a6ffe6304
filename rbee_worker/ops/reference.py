"""The reference backend: plain torch, any device, the definition of right.

Every row of a result depends bitwise on its own sequence alone. BLAS libraries choose another
summation order for another number of rows, so matrix products always run on tiles of one fixed
height: `ROWS` rows for `linear`, `ROWS` queries by `SPAN` keys for attention. What the other rows
of a tile hold does not matter; how many tiles there are does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops import Activation, Ops, RopeSpec, Weight
from rbee_worker.ops.attention import attend
from rbee_worker.ops.batch import Batch, PagedState
from rbee_worker.ops.dequant import dequantize
from rbee_worker.state.specs import StateRef

ROWS = 16  # height of the tiles of `linear`

DTYPES: dict[str, torch.dtype] = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
}


class ReferenceOps(Ops):
    """See `Ops` for what each operation means; here stands how torch does it."""

    name = "reference"

    def __init__(self, device: str = "cpu", dtype: str = "f32") -> None:
        self.device = device
        self.dtype = dtype
        self._dtype = DTYPES[dtype]

    # ---- weights: every packed tensor is expanded once, to the compute dtype

    def matrix(self, parts: Sequence[Packed]) -> Weight:
        rows, cols = sum(p.shape[0] for p in parts), parts[0].shape[1]
        data = torch.empty((rows, cols), dtype=self._dtype, device=self.device)
        start = 0
        for part in parts:
            data[start : start + part.shape[0]] = dequantize(part)
            start += part.shape[0]
        formats = "+".join(dict.fromkeys(p.format for p in parts))
        return Weight(data, rows, cols, formats, self.dtype, data.nbytes)

    def vector(self, parts: Sequence[Packed]) -> Tensor:
        return torch.cat([dequantize(p).reshape(-1) for p in parts]).to(self.device)

    # ---- dense

    def embed(self, table: Weight, batch: Batch, *, scale: float = 1.0) -> Tensor:
        x: Tensor = table.data[batch.tokens]
        if batch.embeds is not None:
            where, values = batch.embeds
            x = x.index_copy(0, where, values.to(x.dtype))
        return x if scale == 1.0 else x * torch.tensor(scale, dtype=x.dtype)

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        n = x.shape[0]
        out = x.new_empty((n, weight.rows))
        for start in range(0, n, ROWS):
            tile = x[start : start + ROWS]
            if tile.shape[0] < ROWS:
                tile = F.pad(tile, (0, 0, 0, ROWS - tile.shape[0]))
            out[start : start + ROWS] = F.linear(tile, weight.data)[: n - start]
        return out if bias is None else (out.float() + bias).to(out.dtype)

    def logits(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        out = self.linear(x, weight).float()
        return out if bias is None else out + bias

    def split(self, x: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
        return torch.split(x, list(widths), dim=1)

    def rows(self, x: Tensor, index: Tensor) -> Tensor:
        return x[index]

    # ---- norms

    def rms_norm(self, x: Tensor, weight: Tensor | None, eps: float, *, heads: int = 1) -> Tensor:
        y = x.float().view(x.shape[0], heads, -1)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
        return (y if weight is None else y * weight).reshape(x.shape).to(x.dtype)

    def layer_norm(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, *, heads: int = 1
    ) -> Tensor:
        y = x.float().view(x.shape[0], heads, -1)
        y = y - y.mean(-1, keepdim=True)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
        if weight is not None:
            y = y * weight
        if bias is not None:
            y = y + bias
        return y.reshape(x.shape).to(x.dtype)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        total = x + residual
        return self.rms_norm(total, weight, eps), total

    # ---- elementwise

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return x * factor

    def act(self, x: Tensor, kind: Activation) -> Tensor:
        return _activate(x.float(), kind).to(x.dtype)

    def gated(self, gate_up: Tensor, kind: Activation) -> Tensor:
        gate, up = gate_up.float().chunk(2, dim=1)
        return (_activate(gate, kind) * up).to(gate_up.dtype)

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return (torch.tanh(x.float() / cap) * cap).to(x.dtype)

    # ---- positions and attention

    def rope(self, x: Tensor, spec: RopeSpec, batch: Batch, *, heads: int) -> Tensor:
        cos, sin = _angles(spec, batch)  # [tokens, 1, dim / 2]
        y = x.float().view(x.shape[0], heads, -1)
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
        k: Tensor,
        v: Tensor,
        where: StateRef,
        batch: Batch,
        *,
        heads: int,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        state = batch.state[where.group]
        assert isinstance(state, PagedState)
        keys, values = state.k[where.layer], state.v[where.layer]
        # [blocks, block_size, kv_heads, dim] as one row a token
        keys.flatten(0, 1)[state.slots] = k.view(-1, *keys.shape[2:]).to(keys.dtype)
        values.flatten(0, 1)[state.slots] = v.view(-1, *values.shape[2:]).to(values.dtype)
        out = attend(
            q.float().view(q.shape[0], heads, -1),
            keys,
            values,
            state.table,
            batch,
            scale=scale,
            window=window,
            softcap=softcap,
        )
        return out.reshape(q.shape[0], -1).to(q.dtype)


def _activate(x: Tensor, kind: Activation) -> Tensor:
    """Composed of exp, erf and tanh alone: torch's fused silu and gelu take another formula for
    the last elements of a buffer than for the rest, so a row's result would depend on its place."""
    if kind == "silu":
        return x / (1 + torch.exp(-x))
    if kind == "gelu":
        return 0.5 * x * (1 + torch.erf(x * 2**-0.5))
    if kind == "gelu_tanh":
        return 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x)))
    if kind == "gelu_quick":
        return x / (1 + torch.exp(-1.702 * x))
    x = F.relu(x)
    return x if kind == "relu" else x.square()


def _angles(spec: RopeSpec, batch: Batch) -> tuple[Tensor, Tensor]:
    """cos and sin of every row's angles, [N, 1, dim / 2], magnitude applied; float32 as HF does."""
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
