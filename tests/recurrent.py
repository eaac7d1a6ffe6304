"""A toy family with recurrent layers: built from the package's parts, computed again by numpy.

Each layer is x + out(mix(norm x)). A recurrent one mixes by `Ops.linear_scan` of two linear maps of
its input, one of them through a sigmoid as the decay; the other kind by attention without
positions. It stands for families to come, and is in no table of architectures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbee_worker.checkpoint.formats import Packed, TensorInfo
from rbee_worker.layers.attention import Attention
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Ops
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import Fixed, PagedKV, StateRef

F32, F64 = NDArray[np.float32], NDArray[np.float64]

VOCAB, DIM, WIDTH, HEADS, KV_HEADS, HEAD = 101, 48, 56, 3, 1, 16
CONTEXT, EPS, SCALE = 2048, 1e-5, 0.25
RECURRENT, HYBRID = "rrr", "rarar"  # the kinds of the layers, recurrent or attention


@dataclass(frozen=True)
class Recurrence:
    """h_t = sigmoid(d_t) * h_{t-1} + u_t, where u and d are linear maps of the input."""

    ops: Ops
    into: Linear  # to u, then d
    out: Linear
    where: StateRef

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, DIM] -> [N, DIM]"""
        u, d = self.into.split(x, batch)
        decay = self.ops.act(d, "sigmoid")
        return self.out(self.ops.linear_scan(u, decay, self.where, "h", batch), batch)


@dataclass(frozen=True)
class Layer:
    """x + mix(norm x)"""

    ops: Ops
    norm: RMSNorm
    mix: Recurrence | Attention

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, DIM] -> [N, DIM]"""
        return self.ops.add(x, self.mix(self.norm(x), batch))


def tensors(kinds: str, seed: int = 0) -> dict[str, F32]:
    """Weights for layers of these kinds; decays are about 0.9, so that the past counts."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 0.2) -> F32:
        return rng.normal(scale=scale, size=shape).astype(np.float32)

    found = {"embed.weight": normal(VOCAB, DIM, scale=1.0), "norm.weight": 1 + normal(DIM)}
    found["head.weight"] = normal(VOCAB, DIM)
    for n, kind in enumerate(kinds):
        at, width = f"layers.{n}", WIDTH if kind == "r" else HEADS * HEAD
        found[f"{at}.norm.weight"] = 1 + normal(DIM)
        found[f"{at}.out.weight"] = normal(DIM, width)
        if kind == "r":
            found[f"{at}.u.weight"], found[f"{at}.d.weight"] = (
                normal(WIDTH, DIM),
                normal(WIDTH, DIM),
            )
            found[f"{at}.u.bias"], found[f"{at}.d.bias"] = normal(WIDTH), 2 + normal(WIDTH)
        else:
            found[f"{at}.q.weight"] = normal(HEADS * HEAD, DIM)
            for name in ("k", "v"):
                found[f"{at}.{name}.weight"] = normal(KV_HEADS * HEAD, DIM)
    return found


class Arrays:
    """Arrays as a `TensorSource`."""

    def __init__(self, arrays: dict[str, F32]) -> None:
        self._arrays = arrays

    def names(self) -> list[str]:
        return list(self._arrays)

    def info(self, name: str) -> TensorInfo:
        array = self._arrays[name]
        return TensorInfo("F32", array.shape, array.nbytes)

    def read(self, name: str) -> Packed:
        array = self._arrays[name]
        rows = array.reshape(1, -1) if array.ndim == 1 else array
        return Packed(np.ascontiguousarray(rows).view(np.uint8), "F32", array.shape)

    def release(self) -> None:
        pass


def build(ops: Ops, kinds: str, seed: int = 0) -> Decoder:
    """The model on a backend."""
    w = Weights(Arrays(tensors(kinds, seed)), ops)
    layers = []
    for cursor, kind in zip(w.layers("layers", len(kinds)), kinds, strict=True):
        mix: Recurrence | Attention
        if kind == "r":
            where = w.states.add(Fixed((("h", (WIDTH,)),)))
            into = cursor.linear(["u", "d"], DIM, [WIDTH, WIDTH], bias=True)
            mix = Recurrence(ops, into, cursor.linear("out", WIDTH, DIM), where)
        else:
            qkv = cursor.linear(["q", "k", "v"], DIM, [HEADS * HEAD, *[KV_HEADS * HEAD] * 2])
            where = w.states.add(PagedKV(KV_HEADS, HEAD, HEAD))
            out = cursor.linear("out", HEADS * HEAD, DIM)
            mix = Attention(ops, qkv, out, where, HEADS, KV_HEADS, SCALE, rope=None)
        layers.append(Layer(ops, cursor.rms_norm("norm", DIM, EPS), mix))
    return Decoder(
        ops=ops,
        embed=w.matrix("embed.weight", VOCAB, DIM),
        blocks=layers,
        norm=w.rms_norm("norm", DIM, EPS),
        out=w.linear("head", DIM, VOCAB),
        groups=w.states.groups,
        vocab_size=VOCAB,
        context=CONTEXT,
    )


def logits(kinds: str, tokens: list[int], seed: int = 0) -> F64:
    """The same in float64, all at once: [T, VOCAB]."""
    t = {name: array.astype(np.float64) for name, array in tensors(kinds, seed).items()}
    x = t["embed.weight"][tokens]
    for n, kind in enumerate(kinds):
        w = {name: t.get(f"layers.{n}.{name}.weight") for name in ("u", "d", "q", "k", "v", "out")}
        y = _normed(x, t[f"layers.{n}.norm.weight"])
        if kind == "r":
            u = y @ w["u"].T + t[f"layers.{n}.u.bias"]
            decay = 1 / (1 + np.exp(-(y @ w["d"].T + t[f"layers.{n}.d.bias"])))
            mixed, h = np.empty_like(u), np.zeros(WIDTH)
            for i in range(len(tokens)):
                h = decay[i] * h + u[i]
                mixed[i] = h
        else:
            q, k, v = (y @ w[name].T for name in "qkv")
            scores = np.einsum("ihd,jd->hij", q.reshape(-1, HEADS, HEAD), k) * SCALE
            scores[:, ~np.tri(len(tokens), dtype=bool)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            mixed = np.einsum("hij,jd->ihd", weights, v).reshape(len(tokens), -1)
        x = x + mixed @ w["out"].T
    return _normed(x, t["norm.weight"]) @ t["head.weight"].T


def _normed(x: F64, weight: F64) -> F64:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight
