"""What blocks of RWKV 5, 6 and 7 compute, for `rwkv.py`: time mixing and channel mixing."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rbee_worker.verify.rwkv_config import (
    Rwkv5Config,
    Rwkv6Config,
    Rwkv7Config,
    inner_of,
    rank,
    size_of,
)

State = dict[str, Tensor]  # of one layer; empty before the first token


def shifted(x: Tensor, state: State, name: str) -> Tensor:
    """The row before each of x [B, T, width]; the last one is kept in `state`."""
    before = state.get(name, torch.zeros_like(x[:, 0]))
    state[name] = x[:, -1]
    return torch.cat([before[:, None], x[:, :-1]], dim=1)


def heads_of(x: Tensor, size: int) -> Tensor:
    """[B, T, heads * size] as float64 [B, T, heads, size]"""
    return x.double().view(*x.shape[:-1], -1, size)


def normed(x: Tensor, size: int, norm: nn.GroupNorm) -> Tensor:
    """The norm of each head, [B, T, heads, size] -> [B, T, heads * size]"""
    flat = x.flatten(2).to(norm.weight.dtype)
    y: Tensor = norm(flat.flatten(0, 1))
    return y.view(flat.shape)


def bare(count: int, size: int, eps: float) -> nn.GroupNorm:
    """A norm for each of `count` heads."""
    return nn.GroupNorm(count, count * size, eps=eps)


def matrix(rows: int, cols: int) -> nn.Linear:
    """A linear map from `cols` to `rows` columns without bias."""
    return nn.Linear(cols, rows, bias=False)


def wkv(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: State) -> Tensor:
    """RWKV 5 and 6: r, k, v, weights w [B, T, heads, size]; bonus u [heads, size]."""
    batch, length, heads, size = r.shape
    s = state.get("wkv", r.new_zeros(batch, heads, size, size))
    out = []
    for t in range(length):
        given = torch.einsum("bhn,bhi->bhni", k[:, t], v[:, t])
        out.append(torch.einsum("bhn,bhni->bhi", r[:, t], s + u[:, :, None] * given))
        s = w[:, t, :, :, None] * s + given
    state["wkv"] = s
    return torch.stack(out, dim=1)


class Attention5(nn.Module):
    """Time mixing of RWKV 5.2 (Eagle)."""

    key: nn.Linear
    value: nn.Linear
    receptance: nn.Linear
    gate: nn.Linear

    def __init__(self, c: Rwkv5Config) -> None:
        super().__init__()
        width, inner, self.size = c.hidden_size, inner_of(c), c.head_size
        heads = inner // c.head_size
        for part in ("key", "value", "receptance", "gate"):
            self.register_parameter(f"time_mix_{part}", nn.Parameter(torch.rand(1, 1, width)))
            setattr(self, part, matrix(inner, width))
        self.time_decay = nn.Parameter(torch.randn(heads, c.head_size) * 0.5 - 0.7)
        self.time_faaaa = nn.Parameter(torch.randn(heads, c.head_size))
        self.output = matrix(width, inner)
        self.ln_x = bare(heads, c.head_size, 1e-5 * c.head_size_divisor**2)

    def forward(self, x: Tensor, state: State) -> Tensor:
        before = shifted(x, state, "att")
        r, k, v, g = (
            getattr(self, part)(torch.lerp(before, x, getattr(self, f"time_mix_{part}")))
            for part in ("receptance", "key", "value", "gate")
        )
        w = torch.exp(-torch.exp(self.time_decay.double())).expand(*x.shape[:2], -1, -1)
        r, k, v = (heads_of(t, self.size) for t in (r, k, v))
        y = wkv(r, k, v, w, self.time_faaaa.double(), state)
        return self.output(normed(y, self.size, self.ln_x) * F.silu(g))  # type: ignore[no-any-return]


class Attention6(nn.Module):
    """Time mixing of RWKV 6 (Finch): what is mixed, and how fast states decay, depends on x."""

    key: nn.Linear
    value: nn.Linear
    receptance: nn.Linear
    gate: nn.Linear
    time_maa_x: nn.Parameter

    def __init__(self, c: Rwkv6Config) -> None:
        super().__init__()
        width, inner, self.size = c.hidden_size, inner_of(c), c.head_size
        heads, wide = inner // c.head_size, width >= 4096
        mixed, decayed = (64, 128) if wide else (32, 64)
        for part in "xwkvrg":
            self.register_parameter(f"time_maa_{part}", nn.Parameter(torch.rand(1, 1, width)))
        self.time_maa_w1 = nn.Parameter(torch.randn(width, 5 * mixed) * 0.02)
        self.time_maa_w2 = nn.Parameter(torch.randn(5, mixed, width) * 0.02)
        self.time_decay = nn.Parameter(torch.randn(1, 1, inner) * 0.5 - 0.7)
        self.time_decay_w1 = nn.Parameter(torch.randn(width, decayed) * 0.02)
        self.time_decay_w2 = nn.Parameter(torch.randn(decayed, inner) * 0.02)
        self.time_faaaa = nn.Parameter(torch.randn(heads, c.head_size))
        for part in ("receptance", "key", "value", "gate"):
            setattr(self, part, matrix(inner, width))
        self.output = matrix(width, inner)
        self.ln_x = bare(heads, c.head_size, 1e-5 * c.head_size_divisor**2)

    def forward(self, x: Tensor, state: State) -> Tensor:
        apart = shifted(x, state, "att") - x
        low = torch.tanh((x + apart * self.time_maa_x) @ self.time_maa_w1)
        low = low.view(*low.shape[:-1], 5, -1)
        moved = torch.einsum("btpm,pmc->pbtc", low, self.time_maa_w2)
        w, k, v, r, g = (
            x + apart * (getattr(self, f"time_maa_{part}") + more)
            for part, more in zip("wkvrg", moved, strict=True)
        )
        decay = self.time_decay + torch.tanh(w @ self.time_decay_w1) @ self.time_decay_w2
        weights = torch.exp(-torch.exp(heads_of(decay, self.size)))
        r, k, v = (
            heads_of(linear(t), self.size)
            for linear, t in ((self.receptance, r), (self.key, k), (self.value, v))
        )
        y = wkv(r, k, v, weights, self.time_faaaa.double(), state)
        return self.output(normed(y, self.size, self.ln_x) * F.silu(self.gate(g)))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Channel mixing of RWKV 5 and 6. back: the factors are shares of the row before (RWKV 6)."""

    def __init__(self, c: Rwkv5Config, prefix: str, names: tuple[str, str], *, back: bool) -> None:
        super().__init__()
        width, inner = c.hidden_size, c.intermediate_size or int(c.hidden_size * 3.5) // 32 * 32
        self.names, self.back = tuple(f"{prefix}_{name}" for name in names), back
        for name in self.names:
            self.register_parameter(name, nn.Parameter(torch.rand(1, 1, width)))
        self.key, self.value = matrix(inner, width), matrix(width, inner)
        self.receptance = matrix(width, width)

    def forward(self, x: Tensor, state: State) -> Tensor:
        before = shifted(x, state, "ffn")
        shares = (getattr(self, name) for name in self.names)
        k, r = (torch.lerp(x, before, s if self.back else 1 - s) for s in shares)
        fed = self.value(F.relu(self.key(k)).square())
        return torch.sigmoid(self.receptance(r)) * fed  # type: ignore[no-any-return]


class LowRank(nn.Module):
    """W2 act(W1 x) + b, under fla's names."""

    def __init__(
        self, cols: int, rank: int, rows: int, act: nn.Module | None, *, bias: bool = True
    ) -> None:
        super().__init__()
        out = nn.Linear(rank, rows, bias=bias)
        self.lora = nn.Sequential(matrix(rank, cols), act or nn.Identity(), out)

    def forward(self, x: Tensor) -> Tensor:
        return self.lora(x)  # type: ignore[no-any-return]


class Attention7(nn.Module):
    """Time mixing of RWKV 7 (Goose)."""

    r_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear

    def __init__(self, c: Rwkv7Config, number: int) -> None:
        super().__init__()
        width, self.size, self.number = c.hidden_size, size_of(c), number
        heads = width // self.size
        for part in "rwkvag":
            self.register_parameter(f"x_{part}", nn.Parameter(torch.rand(1, 1, width)))
        self.k_k = nn.Parameter(torch.randn(width) * 0.1 + 0.7)
        self.k_a = nn.Parameter(torch.randn(width) * 0.1 + 1)
        self.r_k = nn.Parameter(torch.randn(heads, self.size) * 0.3)
        for part in "rkvo":
            setattr(self, f"{part}_proj", matrix(width, width))
        more = self.size / 64
        self.w_lora = LowRank(width, rank(c.decay_low_rank_dim, c, 2.5 * more), width, nn.Tanh())
        if number:
            self.v_lora = LowRank(width, rank(c.v_low_rank_dim, c, 1.7 * more), width, None)
        self.a_lora = LowRank(width, rank(c.a_low_rank_dim, c, 2.5 * more), width, None)
        self.g_lora = LowRank(
            width, rank(c.gate_low_rank_dim, c, 5), width, nn.Sigmoid(), bias=False
        )
        self.g_norm = bare(heads, self.size, self.size * c.norm_eps)

    def forward(self, x: Tensor, state: State, first: State) -> Tensor:
        apart = shifted(x, state, "att") - x
        r, w, k, v, a, g = (x + apart * getattr(self, f"x_{part}") for part in "rwkvag")
        r, k = self.r_proj(r), self.k_proj(k)
        if self.number:
            share = torch.sigmoid(self.v_lora(v))
            v = torch.lerp(self.v_proj(v), first["v"], share)
        else:
            v = first["v"] = self.v_proj(v)
        a, g = torch.sigmoid(self.a_lora(a)), self.g_lora(g)
        direction = F.normalize(heads_of(k * self.k_k, self.size), dim=-1)
        k = k * (1 + (a - 1) * self.k_a)
        w = torch.exp(-math.exp(-0.5) * torch.sigmoid(heads_of(self.w_lora(w), self.size)))
        r, k, v, a = (heads_of(t, self.size) for t in (r, k, v, a))
        y = self._recur(r, w, k, v, -direction, direction * a, state)
        extra = (r * k * self.r_k).sum(-1, keepdim=True) * v
        y = normed(y, self.size, self.g_norm) + extra.flatten(2).to(x.dtype)
        return self.o_proj(y * g)  # type: ignore[no-any-return]

    def _recur(
        self, r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: State
    ) -> Tensor:
        """S = S (diag(w) + a b') + v k', y = S r; all [B, T, heads, size]."""
        batch, length, heads, size = r.shape
        s = state.get("wkv", r.new_zeros(batch, heads, size, size))  # values, keys
        out = []
        for t in range(length):
            change = torch.einsum("bhij,bhj,bhk->bhik", s, a[:, t], b[:, t])
            s = s * w[:, t, :, None] + change + torch.einsum("bhi,bhj->bhij", v[:, t], k[:, t])
            out.append(torch.einsum("bhij,bhj->bhi", s, r[:, t]))
        state["wkv"] = s
        return torch.stack(out, dim=1)


class FeedForward7(nn.Module):
    """Channel mixing of RWKV 7."""

    def __init__(self, c: Rwkv7Config) -> None:
        super().__init__()
        width = c.hidden_size
        inner = c.intermediate_size or -(-int(width * (c.hidden_ratio or 4)) // 32) * 32
        self.x_k = nn.Parameter(torch.rand(width))
        self.key, self.value = matrix(inner, width), matrix(width, inner)

    def forward(self, x: Tensor, state: State) -> Tensor:
        k = torch.lerp(x, shifted(x, state, "ffn"), self.x_k)
        return self.value(F.relu(self.key(k)).square())  # type: ignore[no-any-return]
