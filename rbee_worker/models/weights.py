"""`Weights`: a cursor over a checkpoint's tensor names. Each call gives the shape it expects.

An error names the tensor's full path, and `finish` refuses tensors that nothing read. Torch-free:
the backend decides whether data is read at all.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rbee_worker.checkpoint.formats import FORMATS, Packed, TensorSource
from rbee_worker.checkpoint.ops import floats, packed_floats
from rbee_worker.errors import CheckpointError
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.norm import EachHeadNorm, LayerNorm, RMSNorm
from rbee_worker.ops import Ops, Weight
from rbee_worker.state.specs import StateBook

_NUMPY: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "F64": np.dtype("<f8"),
}


class Weights:
    """`w.sub("self_attn").linear("q_proj", n_in, n_out)`: names are HF's, with dots between
    parts."""

    def __init__(
        self,
        source: TensorSource,
        ops: Ops,
        *,
        where: str = "checkpoint",
        progress: Callable[[int, int, int, int], None] | None = None,
    ) -> None:
        self.ops = ops
        self.states = StateBook()
        self._source = source
        self._names = frozenset(source.names())
        self._read: set[str] = set()
        self._prefix = ""
        self._precise, self._adapts = False, True
        self._where = where
        self._progress = progress

    def sub(self, name: str) -> Weights:
        """The same cursor one level down."""
        child = object.__new__(type(self))
        child.__dict__.update(self.__dict__)
        child._prefix = f"{self._prefix}{name}."
        return child

    def beside(self, name: str) -> Weights:
        """The cursor one level down, of a model beside the one that reads tokens: it has state of
        its own, and adapters change nothing in it."""
        child = self.sub(name)
        child.states, child._adapts = StateBook(), False
        return child

    def unadapted(self, name: str) -> Weights:
        """The cursor one level down, where adapters change nothing."""
        child = self.sub(name)
        child._adapts = False
        return child

    def layers(self, name: str, count: int) -> Iterator[Weights]:
        """Cursors at `name.0` .. `name.{count - 1}`. After each layer, progress is reported and the
        file's pages may leave memory.

        Linear maps of the last layer use 16-bit activations: no later layer can average out their
        rounding error. In SmolLM2-135M that layer caused half of all the divergence.
        """
        total = sum(self._source.info(n).nbytes for n in self._names) if self._progress else 0
        for i in range(count):
            layer = self.sub(f"{name}.{i}")
            layer._precise = i == count - 1
            yield layer
            self._source.release()
            if self._progress is not None:
                done = sum(self._source.info(n).nbytes for n in self._read)
                self._progress(i + 1, count, done, total)

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name at the cursor."""
        return self._prefix + name in self._names

    def linear(
        self,
        name: str | Sequence[str],
        n_in: int,
        n_out: int | Sequence[int],
        *,
        bias: bool = False,
        fused: str = "",
    ) -> Linear:
        """A linear map `name.weight` [n_out, n_in] (and `name.bias`), or several maps stacked.

        fused: the name under which a checkpoint may have them already stacked.
        """
        names = [name] if isinstance(name, str) else list(name)
        widths = [n_out] if isinstance(n_out, int) else list(n_out)
        assert len(names) == len(widths)
        both = list(zip(names, widths, strict=True))
        if fused and self.has(f"{fused}.weight"):
            both = [(fused, sum(widths))]
        parts = [self._take(f"{n}.weight", (width, n_in)) for n, width in both]
        offset = [self._take(f"{n}.bias", (width,)) for n, width in both] if bias else None
        sites = self.ops.sites if self._adapts else None
        named = [(self._prefix + n, rows) for n, rows in both]
        return Linear(
            self.ops,
            self.ops.matrix(parts),
            self.ops.vector(offset) if offset is not None else None,
            tuple(widths),
            self._precise,
            site=None if sites is None else sites.add(named, n_in),
        )

    def matrix(self, name: str, rows: int, cols: int) -> Weight:
        """A matrix in the backend's form, for example an embedding table."""
        return self.ops.matrix([self._take(name, (rows, cols))])

    def rms_norm(
        self, name: str, dim: int, eps: float, *, heads: int = 1, centre: float = 0.0
    ) -> RMSNorm:
        """The RMS norm with weights `name.weight` [dim]; heads: each head of `dim` columns is
        normalised separately.

        centre: added to the checkpoint's weights (1 in Gemma, which stores offsets from 1).
        """
        weight = self._norm_weight(f"{name}.weight", dim, centre)
        return RMSNorm(self.ops, self.ops.vector([weight]), eps, heads)

    def layer_norm(
        self,
        name: str,
        dim: int,
        eps: float,
        *,
        heads: int = 1,
        bias: bool = True,
        centre: float = 0.0,
        named: tuple[str, str] = ("weight", "bias"),
    ) -> LayerNorm:
        """The layer norm with `name.weight` and `name.bias`, [dim] each; heads: each head of `dim`
        columns is normalised separately.

        centre: see `rms_norm`; named: other names of the two.
        """
        weight = self.ops.vector([self._norm_weight(f"{name}.{named[0]}", dim, centre)])
        offset = self.ops.vector([self._take(f"{name}.{named[1]}", (dim,))]) if bias else None
        return LayerNorm(self.ops, weight, offset, eps, heads)

    def each_head_norm(self, name: str, dim: int, eps: float, *, heads: int) -> EachHeadNorm:
        """A norm with weights for each head: `name.weight` [heads, dim], or `name.norms.0.weight`
        [dim] and so on."""
        if self.has(f"{name}.weight"):
            parts = [self._take(f"{name}.weight", (heads, dim))]
        else:
            parts = [self._take(f"{name}.norms.{h}.weight", (dim,)) for h in range(heads)]
        return EachHeadNorm(self.ops, self.ops.vector(parts), eps, heads)

    def numbers(self, name: str, count: int) -> list[float]:
        """A short float vector as Python numbers, which decide how the model is built."""
        packed = self._take(name, (count,))
        if packed.format not in _NUMPY:
            raise CheckpointError(
                f"{self._where}: tensor {self._prefix + name!r} is {packed.format}, "
                f"expected one of {', '.join(_NUMPY)}."
            )
        return [float(x) for x in packed.data.reshape(-1).view(_NUMPY[packed.format])]

    def packed(self, name: str, shape: tuple[int, ...]) -> Packed:
        """A tensor as the checkpoint stores it. Raises CheckpointError."""
        return self._take(name, shape)

    def floats(self, name: str, shape: tuple[int, ...]) -> Packed:
        """A tensor's values as F32, for a family that computes with them. Raises
        CheckpointError."""
        return self.ops.floats(self._take(name, shape))

    def format_of(self, name: str) -> str:
        """The format of a tensor at the cursor."""
        return self._source.info(self._prefix + name).format

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor at the cursor; () if there is none of that name."""
        return self._source.info(self._prefix + name).shape if self.has(name) else ()

    def finish(self, skip: Mapping[str, str]) -> dict[str, str]:
        """Refuse tensors that nothing read, unless a pattern in `skip` (regex: reason) covers them.

        Returns the skipped names with their reasons. Raises CheckpointError.
        """
        left: dict[str, str] = {}
        unread = []
        for name in sorted(self._names - self._read):
            reason = next((why for p, why in skip.items() if re.fullmatch(p, name)), None)
            if reason is None:
                unread.append(name)
            else:
                left[name] = reason
        if unread:
            raise CheckpointError(
                f"{self._where}: {len(unread)} tensors do not belong to this architecture: "
                f"{_some(unread)}.",
                fix="use a checkpoint of the architecture that config.json (or the file) names.",
            )
        return left

    def _norm_weight(self, name: str, dim: int, centre: float) -> Packed:
        weight = self._take(name, (dim,))
        return packed_floats(floats(weight) + np.float32(centre)) if centre else weight

    def _take(self, name: str, shape: tuple[int, ...]) -> Packed:
        full = self._prefix + name
        if full not in self._names:
            near = difflib.get_close_matches(full, self._names, n=1)
            raise CheckpointError(
                f"{self._where}: tensor {full!r} is missing"
                + (f" (the nearest name there is {near[0]!r})" if near else "")
                + ".",
                fix="download the checkpoint again; it is incomplete or its config does not fit.",
            )
        found = self._source.info(full)
        if found.shape != shape:
            raise CheckpointError(
                f"{self._where}: tensor {full!r} has shape {list(found.shape)}, "
                f"the config asks for {list(shape)}.",
                fix="the config and the weights belong to different models; download both again.",
            )
        self._read.add(full)
        return self._source.read(full)

    @property
    def parameters(self) -> int:
        """The number of values in all tensors read so far."""
        return sum(int(np.prod(self._source.info(n).shape)) for n in self._read)

    @property
    def formats(self) -> dict[str, int]:
        """Bytes in the file of all tensors read so far, by format."""
        sizes: dict[str, int] = {}
        for name in self._read:
            info = self._source.info(name)
            assert info.format in FORMATS
            sizes[info.format] = sizes.get(info.format, 0) + info.nbytes
        return sizes


def _some(names: Sequence[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(map(repr, names[:most])) + (f" and {more} more" if more > 0 else "")
