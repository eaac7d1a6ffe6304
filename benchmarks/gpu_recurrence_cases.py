"""Recurrences at the sizes of published models: our kernel, float64 row by row, and fla's kernel.

fla is flash-linear-attention. It gets the same numbers; what its kernel does not compute itself is
computed for it beforehand, outside of the time, and named by `beside`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rbee_worker.ops.cells import by_cell, scan_shape
from rbee_worker.ops.cuda.kernels.recurrence.delta import gated_delta
from rbee_worker.ops.cuda.kernels.recurrence.delta_chunks import gated_delta_chunks
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences
from rbee_worker.ops.cuda.kernels.recurrence.ssd_chunks import ssd_chunks
from rbee_worker.ops.cuda.kernels.recurrence.state_space import (
    selective_scan,
    selective_segments,
    ssd,
)
from rbee_worker.ops.cuda.kernels.recurrence.wkv import wkv, wkv_delta
from rbee_worker.ops.cuda.kernels.recurrence.wkv_chunks import wkv_chunks
from rbee_worker.ops.cuda.kernels.recurrence.wkv_delta_chunks import wkv_delta_chunks

Theirs = Callable[[], Any]  # one launch of fla's kernel, giving (y, state)


class Case:
    """`count` sequences of `length` rows from states that are not zero. heads, states, columns: of
    the state; rows: what comes with each row, [count * length, ...], in the order of the kernel."""

    name = ""
    beside = ""  # what ours computes too, and fla's kernel does not
    heads, states, columns = 1, 1, 1
    rows: list[Tensor]

    def __init__(
        self, count: int, length: int, *, device: str, dtype: torch.dtype, tiny: bool, sets: int = 1
    ) -> None:
        self.count, self.length, self.device, self.dtype = count, length, device, dtype
        self.seeds = torch.Generator(device).manual_seed(count * 10007 + length)
        if tiny:
            self.shrink()
        shape = scan_shape(self.states, self.columns, self.heads)
        self.kept = 0.5 * self.normal(sets * count, *shape, dtype=torch.float32)
        if over := -self.columns % shape[2]:  # columns that no head has are zero
            self.kept.view(sets * count, self.heads, -1, *shape[1:])[:, :, -1, :, -over:] = 0
        starts = torch.arange(count + 1, device=device) * length
        slots = torch.arange(sets * count, device=device).view(sets, count)
        self.places = [Sequences(starts, some, length) for some in slots]
        self.fill()

    def shrink(self) -> None:
        """Sizes for a trial in the interpreter."""

    def fill(self) -> None:
        """Make `rows` and the vectors of a layer."""
        raise NotImplementedError

    def kernel(self, state: Tensor, sequences: Sequences) -> Any:
        """Our kernel that goes from row to row, once."""
        raise NotImplementedError

    def beside_each_other(self, state: Tensor, sequences: Sequences) -> Any:
        """Our kernel for prompts, which computes chunks or segments of rows side by side."""
        raise NotImplementedError

    def step(self, h: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Row t of all sequences in float64: the state after it, and y [count, width]."""
        raise NotImplementedError

    def theirs(self, h: Tensor) -> Theirs | None:
        """fla's kernel from the states h; raises ImportError without fla. None: it has none."""
        return None

    # ---- shared

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Normal numbers."""
        made = torch.randn(*shape, generator=self.seeds, device=self.device)
        return made.to(self.dtype if dtype is None else dtype)

    def vector(self, *shape: int) -> Tensor:
        """Normal float32 numbers."""
        return self.normal(*shape, dtype=torch.float32)

    def uniform(self, count: int, low: float, high: float) -> Tensor:
        """Float32 numbers of a range."""
        made = torch.rand(count, generator=self.seeds, device=self.device)
        return low + (high - low) * made

    def matrices(self, state: Tensor) -> Tensor:
        """States in cells as [count, heads, states, columns]."""
        apart = state[: self.count].unflatten(1, (self.heads, -1)).transpose(2, 3)
        return apart.flatten(3)[..., : self.columns]

    def begin(self) -> None:
        """Cast the rows for `step`: float64, [count, length, ...]."""
        self.exact = [x.double().unflatten(0, (self.count, self.length)) for x in self.rows]

    def reference(self) -> tuple[Tensor, Tensor]:
        """y [count * length, width] and the states that are left, in float64."""
        self.begin()
        h, found = self.matrices(self.kept).double(), []
        for t in range(self.length):
            h, y = self.step(h, t)
            found.append(y.flatten(1))
        return torch.stack(found, 1).flatten(0, 1), h

    def bytes(self) -> int:
        """What the recurrence must at least read and write."""
        width = self.heads * self.columns
        state = 2 * 4 * self.count * self.heads * self.states * self.columns
        out = self.rows[0].element_size() * self.count * self.length * width
        return state + out + sum(x.nbytes for x in self.rows)

    def batched(self, x: Tensor, heads: int) -> Tensor:
        """Rows as fla has them: [count, length, heads, columns]."""
        return x.view(self.count, self.length, heads, -1)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x)"""
    return torch.nn.functional.softplus(x, threshold=1e9)


class Selective(Case):
    """A layer of Mamba-2.8B."""

    name, states, columns = "selective_scan, Mamba 2.8B", 16, 5120

    def shrink(self) -> None:
        self.states, self.columns = 4, 40

    def fill(self) -> None:
        n = self.count * self.length
        x, dt, gate = (self.normal(n, self.columns) for _ in range(3))
        b, c = (self.normal(n, self.states) for _ in range(2))
        self.rows = [x, dt - 4, b, c, gate]
        rates = -torch.arange(1.0, self.states + 1)[:, None].expand(-1, self.columns)
        self.rates = rates.to(self.device)
        self.flat = torch.from_numpy(by_cell(rates.contiguous().numpy())).flatten().to(self.device)
        self.skip = self.vector(self.columns)

    def kernel(self, state: Tensor, sequences: Sequences) -> Tensor:
        return selective_scan(*self.rows, self.flat, self.skip, state, sequences, **pdl(self))

    def beside_each_other(self, state: Tensor, sequences: Sequences) -> Tensor:
        return selective_segments(*self.rows, self.flat, self.skip, state, sequences, **pdl(self))

    def step(self, h: Tensor, t: int) -> tuple[Tensor, Tensor]:
        x, dt, b, c, gate = (x[:, t] for x in self.exact)
        size = softplus(dt)[:, None, None]
        h = torch.exp(size * self.rates) * h + (size * x[:, None, None]) * b[:, None, :, None]
        y = (h * c[:, None, :, None]).sum(2)[:, 0] + self.skip * x
        return h, y * gate * torch.sigmoid(gate)


class Ssd(Case):
    """A layer of Mamba-2 2.7B or Granite 4 H: one group."""

    name, heads, states, columns = "ssd, Mamba-2 2.7B", 80, 128, 64
    beside = "softplus, dt * x, skip, gate; b and c repeated for each head"

    def shrink(self) -> None:
        self.heads, self.states, self.columns = 3, 16, 24

    def fill(self) -> None:
        n = self.count * self.length
        x, gate = (self.normal(n, self.heads * self.columns) for _ in range(2))
        b, c = (self.normal(n, self.states) for _ in range(2))
        self.rows = [x, self.normal(n, self.heads), b, c, gate]
        self.bias, self.skip = self.uniform(self.heads, -6.0, -2.0), self.vector(self.heads)
        self.rates = -self.uniform(self.heads, 1.0, 16.0)

    def kernel(self, state: Tensor, sequences: Sequences) -> Tensor:
        vectors = (self.bias, self.rates, self.skip)
        return ssd(*self.rows, *vectors, state, sequences, groups=1, **pdl(self))

    def beside_each_other(self, state: Tensor, sequences: Sequences) -> Tensor:
        vectors = (self.bias, self.rates, self.skip)
        return ssd_chunks(*self.rows, *vectors, state, sequences, groups=1, **pdl(self))

    def step(self, h: Tensor, t: int) -> tuple[Tensor, Tensor]:
        x, dt, b, c, gate = (x[:, t] for x in self.exact)
        x = x.unflatten(1, (self.heads, -1))
        size = softplus(dt + self.bias)[..., None]
        h = torch.exp(size * self.rates[:, None])[..., None] * h
        h = h + b[:, None, :, None] * (size * x)[:, :, None]
        y = torch.einsum("bhnc,bn->bhc", h, c) + self.skip[:, None] * x
        return h, y.flatten(1) * gate * torch.sigmoid(gate)

    def theirs(self, h: Tensor) -> Theirs:
        from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

        x, dt, b, c, _ = self.rows
        size = softplus(self.batched(dt, self.heads)[..., 0].float() + self.bias)
        v = (self.batched(x, self.heads) * size[..., None]).to(self.dtype)
        k, q = (self.batched(r, 1).expand(-1, -1, self.heads, -1).contiguous() for r in (b, c))
        run = chunk_simple_gla if self.length > 1 else fused_recurrent_simple_gla
        how = {"scale": 1.0, "initial_state": h, "output_final_state": True}
        return lambda: run(q, k, v, size * self.rates, **how)

    def finished(self, y: Tensor) -> Tensor:
        """fla's y with what it leaves out."""
        x, gate = self.rows[0].double(), self.rows[4].double()
        skipped = (self.batched(x, self.heads) * self.skip.double()[:, None]).flatten(0, 1)
        return (y + skipped.flatten(1)) * gate * torch.sigmoid(gate)


class Delta(Case):
    """A layer of Qwen3-Next."""

    name, heads, states, columns = "gated_delta, Qwen3-Next", 32, 128, 128
    groups, beside = 16, "nothing"

    def shrink(self) -> None:
        self.heads, self.states, self.columns, self.groups = 2, 16, 24, 1

    def fill(self) -> None:
        n = self.count * self.length
        q, k = (self.normal(n, self.groups * self.states) for _ in range(2))
        v = self.normal(n, self.heads * self.columns)
        dt, beta = (self.normal(n, self.heads) for _ in range(2))
        self.rows = [q, k, v, dt, beta]
        self.bias = self.uniform(self.heads, -6.0, 0.0)
        self.rates = -self.uniform(self.heads, 0.1, 16.0)

    def kernel(self, state: Tensor, sequences: Sequences) -> Tensor:
        vectors = (self.bias, self.rates)
        return gated_delta(*self.rows, *vectors, state, sequences, groups=self.groups, **pdl(self))

    def beside_each_other(self, state: Tensor, sequences: Sequences) -> Tensor:
        given = (*self.rows, self.bias, self.rates)
        return gated_delta_chunks(*given, state, sequences, groups=self.groups, **pdl(self))

    def step(self, h: Tensor, t: int) -> tuple[Tensor, Tensor]:
        q, k, v, dt, beta = (x[:, t] for x in self.exact)
        q, k = (x.unflatten(1, (self.groups, -1)) for x in (q, k))
        q, k = (x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6) for x in (q, k))
        q, k = (x.repeat_interleave(self.heads // self.groups, 1) for x in (q, k))
        h = torch.exp(self.rates * softplus(dt + self.bias))[..., None, None] * h
        seen = torch.einsum("bhnc,bhn->bhc", h, k)
        new = torch.sigmoid(beta)[..., None] * (v.unflatten(1, (self.heads, -1)) - seen)
        h = h + k[..., None] * new[:, :, None]
        return h, torch.einsum("bhnc,bhn->bhc", h, q) * self.states**-0.5

    def theirs(self, h: Tensor) -> Theirs:
        from fla.ops.gated_delta_rule import (
            chunk_gated_delta_rule,
            fused_recurrent_gated_delta_rule,
        )

        q, k, v, dt, beta = self.rows
        q, k = (self.batched(x, self.groups) for x in (q, k))
        v = self.batched(v, self.heads)
        dt, beta = (self.batched(x, self.heads)[..., 0] for x in (dt, beta))
        run = chunk_gated_delta_rule if self.length > 1 else fused_recurrent_gated_delta_rule
        how: dict[str, Any] = {
            "initial_state": h, "output_final_state": True, "use_qk_l2norm_in_kernel": True,
            "use_gate_in_kernel": True, "A_log": torch.log(-self.rates), "dt_bias": self.bias,
            "use_beta_sigmoid_in_kernel": True,
        }  # fmt: skip
        return lambda: run(q, k, v, g=dt, beta=beta, **how)


class Wkv(Case):
    """A layer of RWKV-6 7B."""

    name, heads, states, columns = "wkv, RWKV-6 7B", 64, 64, 64
    beside = "exp of the decay"

    def shrink(self) -> None:
        self.heads, self.states, self.columns = 2, 24, 24

    def fill(self) -> None:
        n, width = self.count * self.length, self.heads * self.columns
        self.rows = [self.normal(n, width) for _ in range(4)]
        self.base, self.bonus = self.uniform(width, -6.0, -1.0), self.vector(width)

    def kernel(self, state: Tensor, sequences: Sequences) -> Tensor:
        vectors = (self.base, self.bonus)
        return wkv(*self.rows, *vectors, state, sequences, heads=self.heads, **pdl(self))

    def beside_each_other(self, state: Tensor, sequences: Sequences) -> Tensor:
        given = (*self.rows, self.base, self.bonus)
        return wkv_chunks(*given, state, sequences, heads=self.heads, **pdl(self))

    def step(self, h: Tensor, t: int) -> tuple[Tensor, Tensor]:
        r, k, v, decay = (x[:, t].unflatten(1, (self.heads, -1)) for x in self.exact)
        base, bonus = (x.double().view(self.heads, -1) for x in (self.base, self.bonus))
        given = k[..., None] * v[:, :, None]
        y = torch.einsum("bhnc,bhn->bhc", h + bonus[..., None] * given, r)
        return torch.exp(-torch.exp(base + decay))[..., None] * h + given, y

    def theirs(self, h: Tensor) -> Theirs:
        from fla.ops.rwkv6 import chunk_rwkv6, fused_recurrent_rwkv6

        r, k, v, decay = (self.batched(x, self.heads) for x in self.rows)
        w = -torch.exp(self.base.view(self.heads, -1) + decay.float())
        run = chunk_rwkv6 if self.length > 1 else fused_recurrent_rwkv6
        how = {"scale": 1.0, "initial_state": h, "output_final_state": True}
        return lambda: run(r, k, v, w, self.bonus.view(self.heads, -1), **how)


class WkvDelta(Case):
    """A layer of RWKV-7 of the same width."""

    name, heads, states, columns = "wkv_delta, RWKV-7", 64, 64, 64
    beside = "decay, rate, direction, renewed key, own term"

    def shrink(self) -> None:
        self.heads, self.states, self.columns = 2, 24, 24

    def fill(self) -> None:
        n, width = self.count * self.length, self.heads * self.columns
        self.rows = [self.normal(n, width) for _ in range(5)]
        self.vectors = [self.vector(width), self.uniform(width, 0.0, 1.0), self.vector(width)]

    def kernel(self, state: Tensor, sequences: Sequences) -> Tensor:
        found, _ = wkv_delta(
            *self.rows, *self.vectors, state, sequences, heads=self.heads, **pdl(self)
        )
        return found

    def beside_each_other(self, state: Tensor, sequences: Sequences) -> Tensor:
        given = (*self.rows, *self.vectors)
        found, _ = wkv_delta_chunks(*given, state, sequences, heads=self.heads, **pdl(self))
        return found

    def bytes(self) -> int:
        return super().bytes() + self.rows[0].nbytes  # there are two results

    def prepared(self, rows: list[Tensor]) -> tuple[Tensor, ...]:
        """Of float rows [..., heads, size]: the decay's logarithm, a, u and the renewed key."""
        _, k, _, decay, rate = rows
        gone, again, _ = (x.to(k.dtype).view(self.heads, -1) for x in self.vectors)
        a = torch.sigmoid(rate)
        u = k * gone
        u = u / u.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return -0.6065306597126334 * torch.sigmoid(decay), a, u, k * (1 + (a - 1) * again)

    def begin(self) -> None:
        super().begin()
        self.exact = [x.unflatten(2, (self.heads, -1)) for x in self.exact]
        self.exact += self.prepared(self.exact)

    def step(self, h: Tensor, t: int) -> tuple[Tensor, Tensor]:
        r, _, v, _, _, w, a, u, key = (x[:, t] for x in self.exact)
        seen = torch.einsum("bhnc,bhn->bhc", h, u)
        h = torch.exp(w)[..., None] * h - (u * a)[..., None] * seen[:, :, None]
        h = h + key[..., None] * v[:, :, None]
        return h, torch.einsum("bhnc,bhn->bhc", h, r)

    def theirs(self, h: Tensor) -> Theirs:
        from fla.ops.rwkv7 import chunk_rwkv7, fused_mul_recurrent_rwkv7

        rows = [self.batched(x, self.heads) for x in self.rows]
        w, a, u, key = self.prepared([x.float() for x in rows])
        a, u, key = (x.to(self.dtype) for x in (a, u, key))
        how = {"scale": 1.0, "initial_state": h, "output_final_state": True}
        r, _, v, _, _ = rows
        b = u * a
        if self.length > 1:
            return lambda: chunk_rwkv7(r, w, key, v, -u, b, lower_bound=-0.60654, **how)
        return lambda: fused_mul_recurrent_rwkv7(r, w, key, v, u, a, **how)


def pdl(case: Case) -> dict[str, Any]:
    """Dependent launch, where there is a card that has it."""
    return {"pdl": case.device == "cuda" and torch.cuda.get_device_capability()[0] >= 9}


CASES: tuple[type[Case], ...] = (Selective, Ssd, Delta, Wkv, WkvDelta)
