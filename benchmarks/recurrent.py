"""Decoding of recurrent and hybrid models on the CPU, beside llama.cpp and beside a Llama.

    python -m benchmarks.recurrent FOLDER --peer-python PYTHON [--only NAME] [--formats BF16 Q8_0]
                                   [--rounds 3] [--threads N]

The shapes of Mamba-130M, RWKV-6-1.6B and Granite-4.0-H-1B (Mamba 2 with attention in every tenth
layer), and Llamas of the same sizes, as GGUF files with random weights that are made in FOLDER.
Each row: tokens a second of ours and of llama.cpp in turns (`cpu_ours.py`, `cpu_llamacpp.py`), and
which share of what the Llama of that size reads in a second the family reads. A prompt comes too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import document
from benchmarks.side_by_side import PINNED, Pair, kept, median, once, ratio
from rbee_worker.checkpoint.random_blocks import random_rows
from rbee_worker.machine import allowed_cores
from tests.archs import ARCHS
from tests.archs.base import NEVER_PACKED, Arch, gguf_tensors
from tests.archs.hybrid import FULL, LINEAR

HERE = Path(__file__).parent
FORMATS = ("BF16", "Q8_0", "Q4_K")
ROWS = ("prefill_512", "decode", "decode_at_512")
SPACES = (3072, 128, 48)  # of Granite's hybrid: inner width, state, heads
KV = [0] * 9 + [4]


@dataclass(frozen=True)
class Shape:
    """A row. arch: of tests/archs; config: what replaces its values; keys: of the file; layers: how
    many the file has; pattern: how many of them differ, and are made once; size: its yardstick."""

    name: str
    arch: str
    config: Mapping[str, Any]
    keys: Mapping[str, Any]
    layers: int
    pattern: int = 1
    size: str = ""


def _llama(name: str, dim: int, ffn: int, layers: int, heads: int, kv: int) -> Shape:
    config = {
        "hidden_size": dim,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    }
    return Shape(name, "llama-tied", config, {}, layers)


SHAPES = (
    _llama("Llama 135M", 768, 2048, 18, 12, 4),
    Shape(
        "Mamba-130M",
        "mamba",
        {
            "hidden_size": 768,
            "intermediate_size": 1536,
            "time_step_rank": 48,
            "vocab_size": 50280,
        },
        {"ssm.inner_size": 1536, "ssm.time_step_rank": 48},
        24,
        size="Llama 135M",
    ),
    _llama("Llama 1.6B", 2048, 7168, 24, 32, 8),
    Shape(
        "RWKV-6-1.6B",
        "rwkv6",
        {"hidden_size": 2048, "head_size": 64, "vocab_size": 65536, "rescale_every": 0},
        {"feed_forward_length": 7168, "wkv.head_size": 64, "rescale_every_n_layers": 0},
        24,
        size="Llama 1.6B",
    ),
    Shape(
        "Granite-4.0-H-1B",
        "granite4-dense",
        {
            "hidden_size": 1536,
            "intermediate_size": 4096,
            "shared_intermediate_size": 4096,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "num_hidden_layers": 10,
            "layer_types": [LINEAR] * 9 + [FULL],
            "mamba_n_heads": SPACES[2],
            "mamba_d_head": 64,
            "mamba_d_state": SPACES[1],
            "mamba_d_conv": 4,
            "vocab_size": 100352,
            "attention_bias": False,
            "mamba_proj_bias": False,
            "mamba_conv_bias": True,
            "tie_word_embeddings": True,
        },
        {
            "ssm.inner_size": SPACES[0],
            "ssm.state_size": SPACES[1],
            "ssm.time_step_rank": SPACES[2],
            "ssm.conv_kernel": 4,
            "attention.head_count_kv": KV * 4,
            "expert_shared_feed_forward_length": 4096,
        },
        40,
        pattern=10,
        size="Llama 1.6B",
    ),
)


def make(shape: Shape, form: str, path: Path) -> Path:
    """The file of a row, unless it is there: one pattern of layers in float32, repeated, matrices
    as random blocks of the format (Q4_K: matrices whose rows are no whole blocks stay in Q8_0)."""
    if path.exists():
        return path
    row = next(a for a in ARCHS if a.id == shape.arch)

    def config() -> Any:
        values = row.config().to_dict() | {"num_hidden_layers": shape.pattern} | dict(shape.config)
        return type(row.config())(**values)

    arch = dataclasses.replace(row, config=config, metadata=dict(row.metadata) | dict(shape.keys))
    torch.manual_seed(0)
    model = arch.model(config()).eval()
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, gguf.MODEL_ARCH_NAMES[arch.gguf_arch])
    _metadata(writer, arch, model, shape.layers)
    rng = np.random.default_rng(0)
    for name, array in _repeated(gguf_tensors(arch, model), shape).items():
        kind = _kind(name, array, form)
        if kind == "F32":
            writer.add_tensor(name, array)
        else:
            packed = random_rows(rng, kind, int(array.shape[0]), int(array.shape[1]))
            writer.add_tensor(name, packed, raw_dtype=Type[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(path)
    return path


def _metadata(writer: gguf.GGUFWriter, arch: Arch, model: Any, layers: int) -> None:
    from tests.archs.base import _common

    name = gguf.MODEL_ARCH_NAMES[arch.gguf_arch]
    keys = _common(model.config) | dict(arch.metadata) | {"block_count": layers}
    adders = {
        str: writer.add_string,
        float: writer.add_float32,
        int: writer.add_uint32,
        bool: writer.add_bool,
        list: writer.add_array,
    }
    for key, value in keys.items():
        if value is not None:
            adders[type(value)](f"{name}.{key}", value)
    writer.add_tokenizer_model("no_vocab")


def _repeated(tensors: Mapping[str, np.ndarray], shape: Shape) -> dict[str, np.ndarray]:
    found = {name: array for name, array in tensors.items() if not name.startswith("blk.")}
    for layer in range(shape.layers):
        own = f"blk.{layer % shape.pattern}."
        for name, array in tensors.items():
            if name.startswith(own):
                found[f"blk.{layer}.{name.removeprefix(own)}"] = array
    return found


def _kind(name: str, array: np.ndarray, form: str) -> str:
    if array.ndim != 2 or re.search(NEVER_PACKED, name) or not name.endswith(".weight"):
        return "F32"
    if re.search(r"ssm_(a|d)|ssm_norm", name):
        return "F32"
    if array.shape[1] % (256 if form == "Q4_K" else 32):
        return "Q8_0" if form == "Q4_K" and array.shape[1] % 32 == 0 else "F32"
    return form


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=allowed_cores())
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(document.conditions(threads=asked.threads) + "\n")
    sizes = {shape.name: shape for shape in SHAPES}
    chosen = [shape for shape in SHAPES if shape.size and asked.only in shape.name]
    for form in asked.formats:
        for shape in chosen:
            found = measured(shape, sizes[shape.size], form, asked)
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()


def measured(shape: Shape, llama: Shape, form: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One row. Every round runs the Llama of that size, ours and llama.cpp's, one after another."""

    def command(python: str, script: str, of: Shape, rows: Sequence[str]) -> list[str]:
        path = make(of, form, asked.folder / f"{of.name.replace(' ', '-')}-{form}.gguf")
        return [python, str(HERE / script), str(path), str(asked.threads), "wall", "", *rows]

    base = command(sys.executable, "cpu_ours.py", llama, ["decode"])
    ours = command(sys.executable, "cpu_ours.py", shape, ROWS)
    peer = command(asked.peer_python, "cpu_llamacpp.py", shape, ROWS)
    pairs, shares, rates = [], [], []
    for _ in range(asked.rounds):
        beside = once(base)
        pairs.append(Pair(once(ours), once(peer, PINNED)))
        mine = pairs[-1].ours
        rates.append(mine["decode"] * mine["token_bytes"] / 1e9)
        shares.append(1e9 * rates[-1] / (beside["decode"] * beside["token_bytes"]))
    rows = {
        key: [
            median([p.ours[key] for p in kept(pairs, key)]),
            median([p.peer[key] for p in kept(pairs, key)]),
            ratio(pairs, key),
        ]
        for key in ROWS
    }
    found = {"shape": shape.name, "format": form, "rows": rows}
    return found | {"gb_s": median(rates), "of_llama": median(shares)}


if __name__ == "__main__":
    main()
