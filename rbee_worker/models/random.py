"""Models with random weights, from a config alone. Torch-free.

The model is built twice. The first build uses a cursor that accepts and records every name, which
gives the names and shapes of all tensors; the second uses a source that has exactly those, filled
with random bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import numpy as np

from rbee_worker.checkpoint import Checkpoint, hf_config, open_checkpoint, open_found
from rbee_worker.checkpoint.formats import FORMATS, Packed, TensorInfo
from rbee_worker.checkpoint.random_blocks import RANDOM, random_rows
from rbee_worker.checkpoint.safetensors import SafetensorsSource
from rbee_worker.errors import UsageError
from rbee_worker.models import architecture
from rbee_worker.models.config import read_config
from rbee_worker.models.shapes import SHAPES
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Ops
from rbee_worker.ops.plan import PlanOps, blank

PREFIX = "random:"
POOL = 1 << 22  # bytes of random rows per row width; a longer matrix repeats them
KEPT = 1 << 28  # the most bytes of repeated rows that are kept for the next matrix
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# Where files may have several layouts: those whose rows are outputs, as packed blocks need; T5's
# relative positions, and its head if the config unties it; and Gemma 3's tower.
_CHOSEN = re.compile(
    r".*(\.experts\.\w+|\.[kv]_b_proj|SelfAttention\.relative_attention_bias|"
    r"multi_modal_projector\.mm_soft_emb_norm)\.weight|lm_head\.weight"
)


def reference(shape: str, format: str = "bf16") -> str:
    """The reference that `open_model` accepts for random weights. shape: a name of SHAPES, or the
    path of a config.json (or of its directory)."""
    return f"{PREFIX}{format}:{shape}"


def open_model(model: str, *, cache_dir: str = "", mmproj: str = "") -> Checkpoint:
    """The checkpoint that `open_checkpoint` finds, or random weights for a `reference`.

    Raises subclasses of ModelError, and UsageError.
    """
    if not model.startswith(PREFIX):
        path = Path(model)
        if path.suffix == ".gguf" and path.is_file():  # already resolved, as in the engine
            return open_found(model, path, mmproj)
        return open_checkpoint(model, cache_dir=cache_dir, mmproj=mmproj)
    format, _, shape = model[len(PREFIX) :].partition(":")
    return random_checkpoint(shape, format)


def random_checkpoint(shape: str, format: str = "bf16") -> Checkpoint:
    """A checkpoint with random matrices in `format`, and vectors in float32.

    Matrices whose rows are not whole blocks of the format are in bf16; a note says so. Raises
    UsageError for an unknown shape or format, subclasses of ModelError for an invalid config.
    """
    name = format.upper()
    if name not in RANDOM:
        known = ", ".join(n.lower() for n in RANDOM)
        raise UsageError(f"no random weights in format {format!r}.", fix=f"use one of: {known}.")
    arch, config, path = _config(shape)
    ckpt = Checkpoint(
        ref=reference(shape, format),
        path=path,
        kind="safetensors",
        arch=arch,
        config=config,
        generation={},
        source=SafetensorsSource([]),
        tokenizer_config={},
        files={},
        gguf=None,
        notes=(),
    )
    shapes = _shapes(ckpt)
    source = RandomSource({n: _format(name, s) for n, s in shapes.items()}, shapes)
    other = [n for n, s in shapes.items() if len(s) > 1 and source.info(n).format != name]
    notes: tuple[str, ...] = ("the weights are random",)
    if other:
        notes += (
            f"{len(other)} matrices are in bf16 (such as {other[0]}): their rows are not whole "
            f"{name} blocks",
        )
    return replace(ckpt, source=source, notes=notes)


@dataclass
class RandomSource:
    """A `TensorSource` of random bytes; a tensor is the same each time it is read."""

    formats: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    _pools: dict[tuple[str, int], Bytes] = field(default_factory=dict)  # of whole repetitions

    def names(self) -> list[str]:
        """Every tensor of the model."""
        return list(self.shapes)

    def info(self, name: str) -> TensorInfo:
        """The tensor's format, shape and size in bytes."""
        form, shape = FORMATS[self.formats[name]], self.shapes[name]
        return TensorInfo(form.name, shape, prod(shape) // form.block * form.bytes)

    def read(self, name: str) -> Packed:
        """A matrix of random rows; a vector of zeros if it is a bias, of ones otherwise."""
        form, shape = self.formats[name], self.shapes[name]
        if len(shape) == 1:
            values = np.full((1, *shape), 0.0 if name.endswith("bias") else 1.0, np.float32)
            return Packed(values.view(np.uint8), form, shape)
        rows, width = prod(shape[:-1]), FORMATS[form].bytes * shape[-1] // FORMATS[form].block
        repeats = max(POOL // width, 16)
        first = -crc32(name.encode()) % repeats  # matrices begin at different rows
        return Packed(self._rows(form, shape[-1], repeats, first + rows)[first:], form, shape)

    def release(self) -> None:
        """Nothing: the next matrix is of the same rows."""

    def _rows(self, form: str, cols: int, repeats: int, count: int) -> Bytes:
        """The first `count` rows of random bytes, which repeat after `repeats`."""
        key = form, cols
        if key not in self._pools:
            rng = np.random.default_rng(crc32(f"{form} {cols}".encode()))
            self._pools[key] = random_rows(rng, form, repeats, cols)
        found = self._pools[key]
        if len(found) < count:
            found = np.resize(found, (-(-count // repeats) * repeats, found.shape[1]))
            if found.nbytes <= KEPT:
                self._pools[key] = found
        found.flags.writeable = False
        return found[:count]


class _RecordingWeights(Weights):
    """A cursor over a checkpoint that has every requested tensor; records them in `requested`."""

    def __init__(self, ops: Ops, where: str) -> None:
        super().__init__(SafetensorsSource([]), ops, where=where)
        self.requested: dict[str, tuple[int, ...]] = {}

    def has(self, name: str) -> bool:
        """Of the layouts that files may have, choose one for any format, or else the plainest."""
        return _CHOSEN.fullmatch(self._prefix + name) is not None

    def format_of(self, name: str) -> str:
        return "F32"

    def _take(self, name: str, shape: tuple[int, ...]) -> Packed:
        self.requested[self._prefix + name] = shape
        return blank("F32", shape)


def _shapes(ckpt: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all tensors that a model of this config reads."""
    where = str(ckpt.path)
    row = architecture(ckpt.arch, where=where)
    config, _ = read_config(row.config, ckpt.config, where=where)
    recorder = _RecordingWeights(cast(Ops, PlanOps("f32")), where)
    build: Callable[[Any, Weights], object] = row.build
    build(config, recorder)
    return recorder.requested


def _format(name: str, shape: tuple[int, ...]) -> str:
    if len(shape) < 2:
        return "F32"
    return "BF16" if shape[-1] % FORMATS[name].block else name


def _config(shape: str) -> tuple[str, dict[str, Any], Path]:
    """(model_type, canonical config, path for messages). Raises UsageError, CheckpointError."""
    if shape in SHAPES:
        arch, config, _ = hf_config.adopted(dict(SHAPES[shape]), shape)
        return arch, config, Path(shape)
    path = Path(shape)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise UsageError(
            f"{shape!r} is neither a known shape nor a config.json.",
            fix=f"use one of {', '.join(SHAPES)}, or the path of a config.json.",
        )
    arch, config, _ = hf_config.read_config(path)
    return arch, config, path
