"""`Weights`: a cursor over a checkpoint's names. Modules are built from it, shapes at the call.

A mismatch names the full path; `finish` refuses tensors that nothing read. Torch-free: whether
data is read at all is the backend's affair.
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
    """`w.sub("self_attn").linear("q_proj", n_in, n_out)`: names are HF's, joined by dots."""

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
        self._precise = False
        self._where = where
        self._progress = progress

    def sub(self, name: str) -> Weights:
        """The same cursor one level down."""
        child = object.__new__(type(self))
        child.__dict__.update(self.__dict__)
        child._prefix = f"{self._prefix}{name}."
        return child

    def layers(self, name: str, count: int) -> Iterator[Weights]:
        """Cursors at `name.0` .. `name.{count - 1}`; each layer done is reported as progress,
        and its file pages may leave memory.

        Maps of the last layer are precise: what it rounds goes into the logits as it is, no later
        layer evens it out. In SmolLM2-135M that layer made half of all the divergence.
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
        """Is there a tensor of this name at the cursor?"""
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
        """A linear map `name.weight` [n_out, n_in] (and `name.bias`), or several stacked.

        fused: the one name under which a checkpoint may hold them already stacked.
        """
        names = [name] if isinstance(name, str) else list(name)
        widths = [n_out] if isinstance(n_out, int) else list(n_out)
        assert len(names) == len(widths)
        both = list(zip(names, widths, strict=True))
        if fused and self.has(f"{fused}.weight"):
            both = [(fused, sum(widths))]
        parts = [self._take(f"{n}.weight", (width, n_in)) for n, width in both]
        offset = [self._take(f"{n}.bias", (width,)) for n, width in both] if bias else None
        return Linear(
            self.ops,
            self.ops.matrix(parts),
            self.ops.vector(offset) if offset is not None else None,
            tuple(widths),
            self._precise,
        )

    def matrix(self, name: str, rows: int, cols: int) -> Weight:
        """A matrix as the backend holds it, e.g. an embedding table."""
        return self.ops.matrix([self._take(name, (rows, cols))])

    def rms_norm(
        self, name: str, dim: int, eps: float, *, heads: int = 1, centre: float = 0.0
    ) -> RMSNorm:
        """`name.weight` [dim]; dim is the width of one head where there are several.

        centre: what the checkpoint's weights are offsets from (1 in Gemma).
        """
        weight = self._norm_weight(name, dim, centre)
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
    ) -> LayerNorm:
        """`name.weight` and `name.bias`, [dim] each: of one head where there are several.

        centre: as of `rms_norm`.
        """
        weight = self.ops.vector([self._norm_weight(name, dim, centre)])
        offset = self.ops.vector([self._take(f"{name}.bias", (dim,))]) if bias else None
        return LayerNorm(self.ops, weight, offset, eps, heads)

    def each_head_norm(self, name: str, dim: int, eps: float, *, heads: int) -> EachHeadNorm:
        """`name.weight` [heads, dim], or `name.norms.0.weight` [dim] and so on."""
        if self.has(f"{name}.weight"):
            parts = [self._take(f"{name}.weight", (heads, dim))]
        else:
            parts = [self._take(f"{name}.norms.{h}.weight", (dim,)) for h in range(heads)]
        return EachHeadNorm(self.ops, self.ops.vector(parts), eps, heads)

    def numbers(self, name: str, count: int) -> list[float]:
        """A small float vector as Python numbers: for what decides how the model is built."""
        packed = self._take(name, (count,))
        if packed.format not in _NUMPY:
            raise CheckpointError(
                f"{self._where}: tensor {self._prefix + name!r} is {packed.format}, "
                f"expected one of {', '.join(_NUMPY)}."
            )
        return [float(x) for x in packed.data.reshape(-1).view(_NUMPY[packed.format])]

    def packed(self, name: str, shape: tuple[int, ...]) -> Packed:
        """A tensor as the checkpoint holds it. Raises CheckpointError."""
        return self._take(name, shape)

    def floats(self, name: str, shape: tuple[int, ...]) -> Packed:
        """A tensor's values as F32, for what a family makes of them. Raises CheckpointError."""
        return self.ops.floats(self._take(name, shape))

    def format_of(self, name: str) -> str:
        """The format of a tensor at the cursor."""
        return self._source.info(self._prefix + name).format

    def finish(self, skip: Mapping[str, str]) -> dict[str, str]:
        """Refuse tensors nobody read, unless a pattern of `skip` (regex: reason) covers them.

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
                f"{self._where}: {len(unread)} tensors have no place in this architecture: "
                f"{_some(unread)}.",
                fix="use a checkpoint of the architecture that config.json (or the file) names.",
            )
        return left

    def _norm_weight(self, name: str, dim: int, centre: float) -> Packed:
        weight = self._take(f"{name}.weight", (dim,))
        return packed_floats(floats(weight) + np.float32(centre)) if centre else weight

    def _take(self, name: str, shape: tuple[int, ...]) -> Packed:
        full = self._prefix + name
        if full not in self._names:
            near = difflib.get_close_matches(full, self._names, n=1)
            raise CheckpointError(
                f"{self._where}: tensor {full!r} is missing"
                + (f" (the nearest name there is {near[0]!r})" if near else "")
                + ".",
                fix="download the checkpoint again; it is incomplete or not what its config says.",
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
        """Numbers in all tensors read so far."""
        return sum(int(np.prod(self._source.info(n).shape)) for n in self._read)

    @property
    def formats(self) -> dict[str, int]:
        """Bytes in the file by format, of all tensors read so far."""
        sizes: dict[str, int] = {}
        for name in self._read:
            info = self._source.info(name)
            assert info.format in FORMATS
            sizes[info.format] = sizes.get(info.format, 0) + info.nbytes
        return sizes


def _some(names: Sequence[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(map(repr, names[:most])) + (f" and {more} more" if more > 0 else "")
