"""Loads the weights of experts, however a checkpoint stores them: single, stacked, fused,
transposed.

An expert is cut out of the file's tensor only when a backend asks for it, so nothing is copied that
the backend does not keep.
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
    """The parts of each expert, cut on access."""

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
    """Softmax over all experts, then the best `chosen`; normalise: scale their weights to sum 1.

    Raises CheckpointError.
    """
    positive("config", experts=experts, num_experts_per_tok=chosen)
    if chosen > experts:
        raise CheckpointError(
            f"config: num_experts_per_tok is {chosen}, but there are {experts} experts.",
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
    """`count` gated experts of `inner` columns at the cursor; the checkpoint has one tensor for
    each matrix of each expert, or one for all experts. Raises CheckpointError, UnsupportedModel."""
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
    """The matrices `names` of `count` experts, each [n_out, n_in]; an expert's rows follow that
    order.

    Either every expert has its own tensors, and `each` is the pattern of their names: "{}.{}" gives
    `<expert>.<name>.weight`; or they are stacked in `<name>.weight` [count, n_out, n_in]. Raises
    CheckpointError, and UnsupportedModel if experts of one name differ in format.
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
            f"the experts' {' and '.join(names)} have different formats.",
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
    """One tensor with all experts: [count, n_out, n_in], or transposed [count, n_in, n_out] (floats
    only). interleaved: rows of gate and up alternate in the file; here gate's rows come first."""
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
    """The biases of all experts, for `Ops.experts`. Each name is a tensor [count, n_out]; the
    biases of one expert follow one another in the order of names."""
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
    """The rows in the order 0, 2, 4, .., 1, 3, 5, .."""
    data = np.concatenate([packed.data[0::2], packed.data[1::2]])
    return Packed(data, packed.format, packed.shape)


def alternate_elements(packed: Packed) -> Packed:
    """The same order for the elements of a vector of floats."""
    form = FORMATS[packed.format]
    assert form.block == 1, "vectors are floats"
    data = packed.data.reshape(-1, form.bytes)
    both = np.concatenate([data[0::2], data[1::2]])
    return Packed(both.reshape(1, -1), packed.format, packed.shape)
