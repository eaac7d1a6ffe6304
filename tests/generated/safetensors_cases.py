"""Safetensors directories, damaged in bytes, headers, indexes; the outside reader: safetensors."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.formats import FORMATS
from rbee_worker.checkpoint.safetensors import SafetensorsFile, open_directory
from rbee_worker.cli.report import report
from rbee_worker.config import Settings
from tests import tiny
from tests.generated import mutate
from tests.generated.budget import within_budget

_INDEX = "model.safetensors.index.json"
# The library's names of dtypes, and numpy's.
_NUMPY = {"F32": "f4", "F16": "f2", "F64": "f8", "I32": "i4", "I64": "i8", "U8": "u1", "BOOL": "?"}


@cache
def sound(folder: Path) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """The small files of tiny's model, and its tensors."""
    made = tiny.write_safetensors(folder / "sound")
    files = {f.name: f.read_bytes() for f in made.iterdir() if f.suffix != ".safetensors"}
    return files, load_file(made / "model.safetensors")


def write(rng: random.Random, folder: Path) -> None:
    """One case's directory."""
    files, tensors = sound(folder.parent)
    for old in folder.iterdir():
        old.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    if rng.random() < 0.3:
        _sharded(rng, folder, tensors)
        return
    raw = save(tensors)
    if rng.random() < 0.5:
        raw = mutate.damaged(rng, raw, front=8 + int.from_bytes(raw[:8], "little"))
    else:
        raw = _rebuilt(rng, raw)
    (folder / "model.safetensors").write_bytes(raw)


def _rebuilt(rng: random.Random, raw: bytes) -> bytes:
    """The file with another header."""
    size = int.from_bytes(raw[:8], "little")
    header: dict[str, Any] = json.loads(raw[8 : 8 + size])
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice(sorted(header))
        how = rng.randrange(6)
        if how == 0:
            header["__metadata__"] = rng.choice([None, {}, {"a": "b"}, {"a": 1}, 5, "x", []])
        elif how == 1:
            header = mutate.edited(rng, header)
        elif isinstance(header.get(name), dict) and how == 2:
            header[name] = {**header[name], "dtype": rng.choice(["F16", "BF16", "I8", "X", 4])}
        elif isinstance(header.get(name), dict) and how == 3:
            header[name] = {**header[name], "shape": mutate.near(rng, header[name].get("shape"))}
        elif isinstance(header.get(name), dict) and how == 4:
            span = mutate.near(rng, header[name].get("data_offsets"))
            header[name] = {**header[name], "data_offsets": span}
        else:
            header[name] = rng.choice([None, {}, [], {"dtype": "F32"}, mutate.value(rng)])
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5)
    body = text.encode("utf-8", "surrogatepass") + b" " * rng.choice([0, 0, 1, 7])
    return len(body).to_bytes(8, "little") + body + raw[8 + size :]


def _sharded(rng: random.Random, folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """Two files and an index, one of them changed."""
    names = sorted(tensors)
    cut = rng.randrange(1, len(names))
    files = {"a.safetensors": names[:cut], "b.safetensors": names[cut:]}
    if rng.random() < 0.3:
        files["b.safetensors"] = [*names[cut:], rng.choice(names[:cut])]
    weight_map: dict[str, Any] = {n: file for file, held in files.items() for n in held}
    weight_map |= dict.fromkeys(names[:cut], "a.safetensors")
    for file, held in files.items():
        other = {n: tensors[n] + (file == "b.safetensors" and n in names[:cut]) for n in held}
        (folder / file).write_bytes(save(other))
    index: dict[str, Any] = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    if rng.random() < 0.7:
        index = mutate.edited(rng, index)
    text = mutate.written(index)
    (folder / _INDEX).write_bytes(mutate.damaged(rng, text) if rng.random() < 0.3 else text)


def check(number: int, folder: Path) -> str:
    """Run case `number`: "refused", or "read" when it equals what the library reads."""
    rng = random.Random(f"safetensors {number}")
    home = folder / "case"
    home.mkdir(exist_ok=True)
    write(rng, home)
    settings = Settings(model=str(home), backend="reference")
    opened = within_budget(lambda: open_directory(home))
    whole = within_budget(lambda: report(settings))
    if opened.value is None:
        assert whole.error is not None
        return "refused"
    source, _ = opened.value
    if any(source.info(name).format not in FORMATS for name in source.names()):
        assert whole.error is not None  # a dtype of tomorrow can be listed, and no more
        return "refused"
    for file in source.files:
        _same(file)
    decided = home / _INDEX
    if decided.exists() and not (home / "model.safetensors").exists():
        weight_map = json.loads(decided.read_bytes())["weight_map"]
        for name, file in weight_map.items():
            assert source.read(name).data.tobytes() == load_file(home / file)[name].tobytes()
    if whole.value is not None:
        open_checkpoint(str(home))
    return "read"


def _same(ours: SafetensorsFile) -> None:
    """Every tensor of a file is what the library finds, or the library reads no file at all."""
    try:
        theirs = safe_open(ours.path, "numpy")
    except SafetensorError as error:
        raise AssertionError(f"read here, and by the library: {error}") from None
    assert set(theirs.keys()) == set(ours.tensors)
    for name in theirs.keys():  # noqa: SIM118 - no mapping
        found = theirs.get_slice(name)
        tensor = ours.tensors[name]
        assert tuple(found.get_shape()) == tensor.shape
        if (code := _NUMPY.get(found.get_dtype())) is not None:
            want = np.ascontiguousarray(theirs.get_tensor(name)).astype(code, copy=False)
            assert ours.view(name).data.tobytes() == want.tobytes()
