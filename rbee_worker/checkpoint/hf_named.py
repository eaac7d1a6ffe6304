"""GGUF files without metadata, whose tensors have Hugging Face's names: candle's own kind of file.

candle's `tensor-tools` writes the packed tensors of a safetensors model under their names and
nothing else, so that config.json and the tokenizer are those of that model, in the same directory.
Rows are as in safetensors: rotary pairs are half-split, nothing is renamed, stacked or transposed.
"""

from __future__ import annotations

from pathlib import Path

from rbee_worker.checkpoint.formats import Packed, TensorInfo
from rbee_worker.checkpoint.gguf import GgufFile
from rbee_worker.errors import CheckpointError

_CONFIG = "config.json"
# What llama.cpp's files name these; a file with one of them has lost its metadata instead.
_LLAMA_CPP = ("token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight")


def is_hf_named(file: GgufFile) -> bool:
    """Whether the file has no metadata, and no names of llama.cpp's."""
    lost = any(name in file.tensors for name in _LLAMA_CPP)
    return bool(file.tensors) and not len(file.metadata) and not lost


def folder_of(path: Path) -> Path:
    """The directory that has the config.json of such a file. Raises CheckpointError."""
    if not (path.parent / _CONFIG).is_file():
        raise CheckpointError(
            f"{path}: has tensors with Hugging Face's names and no metadata (candle's kind of "
            f"file), and there is no {_CONFIG} beside it.",
            fix=f"put {_CONFIG} and the tokenizer's files of the model that was packed beside it",
        )
    return path.parent


class HfNamedSource:
    """The tensors of such a file, as a `TensorSource`."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file

    def names(self) -> list[str]:
        """See `TensorSource`."""
        return list(self._file.tensors)

    def info(self, name: str) -> TensorInfo:
        """See `TensorSource`."""
        return self._file.info(name)

    def read(self, name: str) -> Packed:
        """See `TensorSource`."""
        return self._file.read(name)

    def release(self) -> None:
        """See `TensorSource.release`."""
        self._file.release()
