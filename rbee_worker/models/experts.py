"""Weights of experts, however a checkpoint lays them out: one by one, stacked, fused, transposed.

Experts are cut out of what the file holds when a backend asks for them, so nothing is copied that
is not held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np

from rbee_worker.checkpoint.formats import FORMATS, Packed
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.moe import Experts
from rbee_worker.models.config import DecoderConfig, activation, positive
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Routing, Weight
from rbee_worker.ops.batch import Array

Parts = Sequence[Packed]


class Members(Sequence[Parts]):
    """The parts of each expert, made when they are asked for."""

    def __init__(self, count: int, cut: Callable[[int], Parts]) -> None:
        self._count, self._cut = count, cut

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Parts: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Parts]: ...
    def __getitem__(self, index: int | slice) -> Parts | Sequence[Parts]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._cut(index)


def plain_routing(experts: int, chosen: int, *, normalise: bool) -> Routing:
    """The best by a softmax over all experts; normalise: their weights' sum is 1.

    Raises CheckpointError.
    """
    positive("config", experts=experts, num_experts_per_tok=chosen)
    if chosen > experts:
        raise CheckpointError(
            f"config: num_experts_per_tok is {chosen}, there are {experts} experts.",
            fix="download the checkpoint's config again.",
        )
    return Routing(chosen, normalise=normalise)


def gated_experts(
    w: Weights,
    c: DecoderConfig,
    count: int,
    inner: int,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> Experts:
    """`count` experts of `inner` columns at the cursor, each matrix of each expert a tensor, or all
    experts' in one. Raises CheckpointError, UnsupportedModel."""
    gate, up, down = names
    return Experts(
        ops=w.ops,
        up=load_experts(w, (gate, up), count, c.hidden_size, inner),
        down=load_experts(w, (down,), count, inner, c.hidden_size),
        act=activation(c.hidden_act),
    )


def load_experts(
    w: Weights, names: Sequence[str], count: int, n_in: int, n_out: int, *, each: str = "{}.{}"
) -> Weight:
    """`count` experts' matrices `names`, each [n_out, n_in], rows of one expert in that order.

    Either every expert has its own, `each` saying how: "{}.{}" is `<expert>.<name>.weight`; or
    they are stacked, `<name>.weight` [count, n_out, n_in]. Raises CheckpointError, UnsupportedModel
    where experts of one name differ in format.
    """
    if w.has(f"{names[0]}.weight"):
        stacked = [w.packed(f"{n}.weight", (count, n_out, n_in)) for n in names]
        return w.ops.stack(Members(count, lambda e: [member(s, e) for s in stacked]))
    alone = [
        [w.packed(f"{each.format(e, n)}.weight", (n_out, n_in)) for n in names]
        for e in range(count)
    ]
    if len({tuple(p.format for p in parts) for parts in alone}) > 1:
        raise UnsupportedModel(
            f"experts hold their {' and '.join(names)} in different formats.",
            fix="quantize the model again with a current llama.cpp.",
        )
    return w.ops.stack(alone)


def load_fused(
    w: Weights,
    name: str,
    count: int,
    n_in: int,
    n_out: int,
    *,
    transposed: bool = False,
    interleaved: bool = False,
) -> Weight:
    """One tensor of all experts: [count, n_out, n_in], or transposed [count, n_in, n_out] (floats
    only). interleaved: rows of gate and up alternate, and are put one after the other."""
    shape = (count, n_in, n_out) if transposed else (count, n_out, n_in)
    whole = w.packed(name, shape)

    def cut(e: int) -> Parts:
        one = member(whole, e)
        if transposed:
            one = transpose(one)
        return [alternate_rows(one)] if interleaved else [one]

    return w.ops.stack(Members(count, cut))


def load_biases(
    w: Weights, names: Sequence[str], count: int, n_out: int, *, interleaved: bool = False
) -> Array:
    """Biases of all experts, for `Ops.experts`: each name [count, n_out]; an expert's follow each
    other in order of names."""
    parts = [w.packed(n, (count, n_out)) for n in names]
    rows = [member(p, e) for e in range(count) for p in parts]
    if interleaved:
        rows = [alternate_elements(r) for r in rows]
    return w.ops.vector(rows)


def member(packed: Packed, index: int) -> Packed:
    """Matrix (or row) `index` of a stack, as a view."""
    shape = packed.shape[1:]
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    return Packed(packed.data[index * rows : (index + 1) * rows], packed.format, shape)


def transpose(packed: Packed) -> Packed:
    """A matrix of floats with rows and columns exchanged."""
    form = FORMATS[packed.format]
    assert form.block == 1, "blocks run along a row"
    rows, cols = packed.shape
    data = packed.data.reshape(rows, cols, form.bytes).swapaxes(0, 1)
    return Packed(data.reshape(cols, rows * form.bytes), packed.format, (cols, rows))


def alternate_rows(packed: Packed) -> Packed:
    """Rows 0, 2, 4, .. and then 1, 3, 5, .."""
    data = np.concatenate([packed.data[0::2], packed.data[1::2]])
    return Packed(data, packed.format, packed.shape)


def alternate_elements(packed: Packed) -> Packed:
    """The same for the elements of a vector of floats."""
    form = FORMATS[packed.format]
    assert form.block == 1, "vectors are floats"
    data = packed.data.reshape(-1, form.bytes)
    both = np.concatenate([data[0::2], data[1::2]])
    return Packed(both.reshape(1, -1), packed.format, packed.shape)
