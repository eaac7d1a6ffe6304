"""GGUF files, damaged byte by byte and field by field; the outside reader is the gguf package."""

from __future__ import annotations

import math
import random
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from rbee_worker.checkpoint import Checkpoint, open_checkpoint
from rbee_worker.cli.report import report
from rbee_worker.config import Settings
from rbee_worker.tokenizer.load import load_tokenizer
from tests import tiny
from tests.checkpoint import gguf_bytes as g
from tests.generated import mutate
from tests.generated.budget import within_budget

_PACK = {g.U8: "<B", g.I8: "<b", g.U16: "<H", g.I16: "<h", g.U32: "<I", g.I32: "<i"}
_PACK |= {g.F32: "<f", g.U64: "<Q", g.I64: "<q", g.F64: "<d"}


@dataclass
class Field:
    """A metadata value: its type number (of the elements, where `many`) and its value."""

    kind: int
    value: Any
    many: bool = False


@cache
def sound(folder: Path) -> tuple[bytes, ...]:
    """Whole files: a model with a vocabulary, and one with packed weights."""
    plain = tiny.write_gguf(folder / "plain.gguf")
    packed = tiny.write_packed_gguf(folder / "packed.gguf", ["Q4_0", "Q8_0", "Q6_K"])
    return plain.read_bytes(), packed.read_bytes()


def made(rng: random.Random, folder: Path) -> bytes:
    """One case's file."""
    data = rng.choice(sound(folder))
    if rng.random() < 0.4:
        return mutate.damaged(rng, data, front=data.find(b"tokenizer.ggml.tokens"))
    return _rebuilt(rng, data, folder)


def _rebuilt(rng: random.Random, data: bytes, folder: Path) -> bytes:
    """The file again, with some fields and tensors changed."""
    path = folder / "whole.gguf"
    path.write_bytes(data)
    reader = gguf.GGUFReader(path)
    fields = {
        name: Field(int(f.types[-1]), f.contents(), len(f.types) > 1)
        for name, f in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    tensors = [
        [t.name, [int(n) for n in t.shape], int(t.tensor_type), t.data.tobytes()]
        for t in reader.tensors
    ]
    for _ in range(rng.choice([1, 1, 2, 3])):
        if rng.random() < 0.75:
            _change_field(rng, fields)
        else:
            _change_tensor(rng, tensors)
    keys = [_key(name, field) for name, field in fields.items()]
    if rng.random() < 0.05:
        keys.append(rng.choice(keys))
    entries, blobs, offset = [], b"", 0
    for name, dims, kind, blob in tensors:
        entries.append(g.tensor(name, tuple(n % 2**64 for n in dims), kind, offset))
        blobs += blob + bytes(-len(blob) % 32)
        offset = len(blobs)
    return g.gguf(keys, entries, blobs)


def _change_field(rng: random.Random, fields: dict[str, Field]) -> None:
    name = rng.choice(sorted(fields))
    field = fields[name]
    how = rng.randrange(8)
    if how == 0:
        del fields[name]
    elif how == 1:
        new = rng.choice(["llama.new", "general.sampling.temp", "split.count", "general.type"])
        fields[new] = Field(g.U32, rng.choice([0, 1, 3, 70000]))
    elif how == 2:
        field.kind = rng.choice([*_PACK, g.BOOL, g.STRING])
        field.value = [0] if field.many else rng.choice([0, 1, 2, 200])
        if field.kind == g.STRING:
            field.value = ["a"] if field.many else rng.choice(["a", "gpt2", "llama", ""])
    elif field.many:
        field.value = mutate.near(rng, field.value)
        if not isinstance(field.value, list):
            field.value = []
    else:
        field.value = mutate.near(rng, field.value)


def _change_tensor(rng: random.Random, tensors: list[list[Any]]) -> None:
    at = rng.randrange(len(tensors))
    name, dims, _kind, _ = tensor = tensors[at]
    how = rng.randrange(6)
    if how == 0:
        del tensors[at]
    elif how == 1:
        tensor[0] = rng.choice([name + "x", "x", "blk.9.attn_q.weight", tensors[0][0]])
    elif how == 2 and dims:
        tensor[1] = [*dims[:-1], rng.choice([1, dims[-1] * 2, 2**31, 2**63])]
    elif how == 3:
        tensor[1] = dims[::-1]
    elif how == 4:
        tensor[2] = rng.choice([0, 1, 2, 8, 14, 24, 26, 30, 39, 77])
    else:
        tensor[3] = tensor[3][: len(tensor[3]) // 2]


def _key(name: str, field: Field) -> bytes:
    if not field.many:
        return g.key(name, field.kind, _value(field.kind, field.value))
    values = [_value(field.kind, v) for v in field.value]
    return g.key(name, g.ARRAY, g.array(field.kind, len(values), b"".join(values)))


def _value(kind: int, value: Any) -> bytes:
    if kind == g.STRING:
        text = value if isinstance(value, str) else str(value)
        return g.text(text.encode("utf-8", "surrogatepass"))
    if kind == g.BOOL:
        return bytes([bool(value)])
    code = _PACK[kind]
    number = value if isinstance(value, int | float) else 0
    if code[1] in "fd":
        try:
            return struct.pack(code, float(number))
        except OverflowError:
            return struct.pack(code, math.inf)
    whole = int(number) if math.isfinite(number) else 0
    bits = struct.calcsize(code) * 8
    wrapped = whole % (1 << bits)
    return struct.pack(code, wrapped - (1 << bits) * (code[1].islower() and wrapped >> (bits - 1)))


def check(number: int, folder: Path) -> str:
    """Run case `number`: "refused", or "read" when it equals what the gguf package reads."""
    rng = random.Random(f"gguf {number}")
    path = folder / "case.gguf"
    path.write_bytes(made(rng, folder))
    settings = Settings(model=str(path), backend="reference")
    if within_budget(lambda: report(settings)).value is None:
        return "refused"
    ckpt = open_checkpoint(str(path))
    load_tokenizer(ckpt)
    _same(ckpt, path)
    return "read"


def _same(ckpt: Checkpoint, path: Path) -> None:
    """Every tensor and every value is what the gguf package finds."""
    assert ckpt.gguf is not None
    theirs = gguf.GGUFReader(path)
    ours = ckpt.gguf
    assert [*ours.tensors] == [t.name for t in theirs.tensors]
    for t in theirs.tensors:
        found = ours.tensors[t.name]
        assert found.shape == tuple(int(n) for n in reversed(t.shape))
        assert found.format == t.tensor_type.name
        assert (found.offset, found.nbytes) == (t.data_offset, t.n_bytes)
    fields = {k: f for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert set(ours.metadata) == set(fields)
    for name, field in fields.items():
        try:
            want = field.contents()
        except UnicodeDecodeError:  # a description that is no UTF-8
            assert not name.startswith("tokenizer.")
            continue
        assert _equal(ours.metadata[name], want), name


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(np.all(one == other))
