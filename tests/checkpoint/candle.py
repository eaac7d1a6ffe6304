"""Files as candle's `tensor-tools quantize` writes them from safetensors: no metadata, the same
names, and matrices whose rows are whole blocks packed; all else is in F32."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file, save_file

from tests.checkpoint import gguf_bytes

F32, Q8_0 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0


def is_packed(value: np.ndarray) -> bool:
    """candle's rule, for blocks of 32."""
    return value.ndim == 2 and value.shape[1] % 32 == 0


def write(folder: Path, to: Path) -> Path:
    """The model of a directory as such a file, in another directory beside its config.json."""
    to.mkdir()
    shutil.copy(folder / "config.json", to)
    entries, data = [], b""
    for name, value in load_file(folder / "model.safetensors").items():
        kind = Q8_0 if is_packed(value) else F32
        raw = gguf.quants.quantize(value.astype(np.float32), kind).tobytes()
        data += bytes(-len(data) % 32)
        entries.append(gguf_bytes.tensor(name, value.shape[::-1], int(kind), len(data)))
        data += raw
    path = to / "model-q8.gguf"
    path.write_bytes(gguf_bytes.gguf([], entries, data))
    return path


def unpack(folder: Path) -> Path:
    """Give a directory the values that such a file has."""
    at = folder / "model.safetensors"
    found = load_file(at)
    for name, value in found.items():
        if is_packed(value):
            blocks = gguf.quants.quantize(value.astype(np.float32), Q8_0)
            found[name] = gguf.quants.dequantize(blocks, Q8_0)
    save_file(found, at, metadata={"format": "pt"})
    return folder
