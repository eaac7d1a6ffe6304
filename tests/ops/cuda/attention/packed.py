"""A packed projection as its parts, normalised and rotated, in numpy float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tests.ops.cuda.attention.cases import DEVICE, F64


@dataclass
class Before:
    """What happens to queries and keys before attention; see `split_rope_write`."""

    rope_dim: int = 0
    interleaved: bool = False
    norms: bool = False
    by_group: bool = False

    def draw(self, rows: int, k_dim: int, seed: int = 1) -> None:
        """Angles [rows, rope_dim] and norm weights [k_dim]."""
        draw = torch.Generator().manual_seed(seed)
        self.angles = None
        self.q_norm = self.k_norm = None
        if self.rope_dim:
            turn = 6.3 * torch.rand((rows, self.rope_dim // 2), generator=draw)
            self.angles = torch.cat([turn.cos(), turn.sin()], 1).to(DEVICE)
        if self.norms:
            self.q_norm = torch.rand(k_dim, generator=draw).to(DEVICE)
            self.k_norm = torch.rand(k_dim, generator=draw).to(DEVICE)

    def arguments(self) -> dict[str, object]:
        """Arguments of the launch functions by name, but for the angles."""
        return {
            "rope_dim": self.rope_dim,
            "interleaved": self.interleaved,
            "q_norm": self.q_norm,
            "k_norm": self.k_norm,
            "eps": 1e-3,
            "by_group": self.by_group,
        }

    def parts(
        self, qkv: torch.Tensor, heads: int, kv_heads: int, k_dim: int, v_dim: int
    ) -> tuple[F64, F64, F64]:
        """q [N, heads, k_dim], k [N, kv_heads, k_dim], v [N, kv_heads, v_dim]"""
        x = qkv.double().cpu().numpy()
        group = heads // kv_heads
        if self.by_group:
            x = x.reshape(len(x), kv_heads, -1)
            ends = [group * k_dim, (group + 1) * k_dim]
        else:
            ends = [heads * k_dim, (heads + kv_heads) * k_dim]
        q, k, v = np.split(x, ends, axis=-1)
        q = q.reshape(len(x), heads, k_dim)
        k = k.reshape(len(x), kv_heads, k_dim)
        return self._turn(q, self.q_norm), self._turn(k, self.k_norm), v.reshape(len(x), -1, v_dim)

    def _turn(self, x: F64, norm: torch.Tensor | None) -> F64:
        if norm is not None:
            x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3) * norm.double().cpu().numpy()
        if self.angles is None:
            return x
        half = self.rope_dim // 2
        angles = self.angles.double().cpu().numpy()[:, None]
        cos, sin = angles[..., :half], angles[..., half:]
        out = x.copy()
        if self.interleaved:
            a, b = x[..., 0 : self.rope_dim : 2], x[..., 1 : self.rope_dim : 2]
            out[..., 0 : self.rope_dim : 2] = a * cos - b * sin
            out[..., 1 : self.rope_dim : 2] = b * cos + a * sin
        else:
            a, b = x[..., :half], x[..., half : self.rope_dim]
            out[..., :half] = a * cos - b * sin
            out[..., half : self.rope_dim] = b * cos + a * sin
        return out


KINDS = {
    "plain": Before(),
    "rope": Before(32),
    "half of a head": Before(16),
    "interleaved": Before(32, interleaved=True),
    "part, interleaved": Before(20, interleaved=True),
    "norms": Before(norms=True),
    "norms and rope": Before(32, norms=True),
    "norms and part, interleaved": Before(8, interleaved=True, norms=True),
    "by group": Before(32, by_group=True),
}
