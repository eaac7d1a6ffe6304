"""Dense maps that a pooled vector goes through: where their weights are, and their sizes.

sentence-transformers' files keep each in a folder of its own, with a config.json whose absent keys
mean what version 6 assumes; llama.cpp's GGUF files have them as tensors beside the model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from rbee_worker.checkpoint.decoding import decode
from rbee_worker.checkpoint.gguf import GgufFile
from rbee_worker.checkpoint.reading import inside
from rbee_worker.checkpoint.safetensors import SafetensorsFile, SafetensorsSource
from rbee_worker.checkpoint.weight_files import SINGLE
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.types import DenseAct

F32 = NDArray[np.float32]
# llama.cpp's names, in the order in which the maps are applied.
GGUF_NAMES = ("dense_2", "dense_3")

_AGAIN = "download the model's files again"
_PICKLED = "pytorch_model.bin"
_VECTOR = (None, "sentence_embedding")
# The keys that have one meaning here, and the values that say it.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "module_input_name": _VECTOR,
    "module_output_name": _VECTOR,
    "use_residual": (None, False),
}
_READ = ("in_features", "out_features", "bias", "activation_function")


@dataclass(frozen=True)
class DenseMap:
    """act(weight x + bias), x being a vector of `inputs` numbers. weight, bias: names of tensors of
    `source`, [outputs, inputs] and [outputs]; "": no bias. where: for messages."""

    where: str
    source: SafetensorsSource | GgufFile
    weight: str
    bias: str
    inputs: int
    outputs: int
    act: DenseAct

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return self.outputs * (self.inputs + bool(self.bias))

    @property
    def nbytes(self) -> int:
        """Their size in memory, in float32."""
        return 4 * self.parameters

    def read(self) -> tuple[F32, F32 | None]:
        """Weight [outputs, inputs] and bias [outputs]. Raises UnsupportedModel for a format that
        has no decoder."""
        bias = decode(self.source.read(self.bias)) if self.bias else None
        return decode(self.source.read(self.weight)), bias


def read_dense(root: Path, folder: str, config: Mapping[str, Any]) -> DenseMap:
    """The map in `folder` of the model directory `root`. config: the object in its config.json, {}
    without one. Raises CheckpointError, UnsupportedModel."""
    where = root / folder
    _refuse_other(where, config)
    inputs, outputs = config.get("in_features"), config.get("out_features")
    if type(inputs) is not int or type(outputs) is not int or min(inputs, outputs) < 1:
        raise CheckpointError(
            f"{where / 'config.json'}: in_features and out_features are not two sizes.", fix=_AGAIN
        )
    bias = bool(config.get("bias", True))
    weights = where / SINGLE
    if not weights.is_file():
        raise CheckpointError(
            f"{weights}: is missing.",
            fix=f"{_AGAIN}; if it has {_PICKLED} there, save it anew with sentence-transformers",
        )
    file = SafetensorsFile.open(inside(root, weights))
    wanted = {"linear.weight": (outputs, inputs), **({"linear.bias": (outputs,)} if bias else {})}
    found = {name: stored.shape for name, stored in file.tensors.items()}
    if found != wanted:
        raise CheckpointError(
            f"{weights}: has {_shown(found)}; its config.json says {_shown(wanted)}.", fix=_AGAIN
        )
    act = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")[2]
    return DenseMap(
        str(where),
        SafetensorsSource([file]),
        "linear.weight",
        "linear.bias" if bias else "",
        inputs,
        outputs,
        next(known for known in get_args(DenseAct) if known == act),
    )


def gguf_dense(file: GgufFile) -> tuple[DenseMap, ...]:
    """The maps of a GGUF file: llama.cpp's have no biases and nothing between them. Raises
    CheckpointError."""
    names = [f"{name}.weight" for name in GGUF_NAMES if f"{name}.weight" in file.tensors]
    found = []
    for name in names:
        shape = file.info(name).shape
        if len(shape) != 2:
            raise CheckpointError(f"{file.path}: {name} is not a matrix.", fix=_AGAIN)
        where = f"{file.path}: {name}"
        found.append(DenseMap(where, file, name, "", shape[1], shape[0], "Identity"))
    return tuple(found)


def check_sizes(maps: Sequence[DenseMap], width: int) -> None:
    """Raise CheckpointError unless the first map takes vectors of `width` numbers, and each of the
    others what the one before it gives."""
    for one in maps:
        if one.inputs != width:
            raise CheckpointError(
                f"{one.where}: takes vectors of {one.inputs} numbers, but gets {width}.", fix=_AGAIN
            )
        width = one.outputs


def _refuse_other(where: Path, config: Mapping[str, Any]) -> None:
    """Raise UnsupportedModel for a map that computes something else."""
    others = {key: value for key, value in config.items() if key not in _READ}
    wrong = {k: v for k, v in others.items() if v not in _FIXED.get(k, (None, False))}
    act, bias = str(config.get("activation_function", "torch.nn.Tanh")), config.get("bias", True)
    if not act.startswith("torch.") or act.rpartition(".")[2] not in get_args(DenseAct):
        wrong["activation_function"] = act
    if not isinstance(bias, bool):
        wrong["bias"] = bias
    if wrong:
        told = ", ".join(f"{key[:40]} is {str(value)[:60]!r}" for key, value in wrong.items())
        raise UnsupportedModel(
            f"{where / 'config.json'}: {told[:160]}, which is not supported.",
            fix=f"use a model with a plain map and {', '.join(get_args(DenseAct))} of torch.nn.",
        )


def _shown(shapes: Mapping[str, tuple[int, ...]]) -> str:
    told = ", ".join(f"{name[:40]} {list(shape)}" for name, shape in sorted(shapes.items())[:4])
    return told or "no tensors"
