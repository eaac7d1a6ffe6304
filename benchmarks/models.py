"""The model files that the CPU benchmarks compare on: made here, from the pypi model or at random.

    python -m benchmarks.models FOLDER [NAME ...]

SmolLM2-135M comes as the package's Q4_1 and is quantized again from its values. The files of 1B
(Llama's shape: 2048 wide, 16 layers) hold random blocks with small finite scales, because the gguf
package cannot encode K formats: they can be timed, not talked to. Q4_K_M has the mixture of Q4_K
and Q6_K that llama.cpp's own quantizer makes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader, GGUFWriter
from safetensors.torch import save_file

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.random_blocks import random_rows
from rbee_worker.checkpoint.refs import resolve
from rbee_worker.ops.reference.dequant import dequantize

VOCAB, HEAD_DIM = 49152, 64
WIDE = {"dim": 2048, "layers": 16, "ffn": 8192, "heads": 32, "kv_heads": 8}  # the shape of 1B
KEYS = ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id")


def make(folder: Path, name: str, source: Path | None = None) -> Path:
    """The file (or directory) `name` in `folder`, made unless it is there.

    source: the Q4_1 file of SmolLM2; without it the package is fetched. Raises KeyError.
    """
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{name}"
        FILES[name](source or resolve("smollm2"), part)
        part.rename(path)
    return path


def requantized(kind: T, embedding: T) -> Callable[[Path, Path], None]:
    """A maker of SmolLM2 with its matrices in `kind`."""

    def write(source: Path, path: Path) -> None:
        reader = GGUFReader(source)
        w = _writer(reader, path, dim=576, layers=30, ffn=1536, heads=9, kv_heads=3)
        for tensor in reader.tensors:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            to = embedding if tensor.name == "token_embd.weight" else kind
            if tensor.tensor_type == T.F32:
                w.add_tensor(tensor.name, values)
            else:
                w.add_tensor(tensor.name, gguf.quants.quantize(values, to), raw_dtype=to)
        _finish(w)

    return write


def as_safetensors(source: Path, path: Path) -> None:
    """SmolLM2 in bfloat16 under Hugging Face's names, with its config.json."""
    import json

    ckpt = open_checkpoint(str(source))
    path.mkdir(exist_ok=True)
    tensors = {n: dequantize(ckpt.source.read(n)) for n in ckpt.source.names()}
    named = {n: t.to(torch.bfloat16).contiguous() for n, t in tensors.items()}
    save_file(named, path / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": ckpt.arch, **ckpt.config, "tie_word_embeddings": True}
    (path / "config.json").write_text(json.dumps(config))


def random(kind: Callable[[str, int], str]) -> Callable[[Path, Path], None]:
    """A maker of 1B with random blocks. kind: (tensor without its layer, layer) -> format."""

    def write(source: Path, path: Path) -> None:
        w, rng = _writer(GGUFReader(source), path, **WIDE), np.random.default_rng(0)
        one = np.ones(WIDE["dim"], np.float32)

        def add(name: str, tensor: str, layer: int, shape: tuple[int, int]) -> None:
            form = kind(tensor, layer)
            w.add_tensor(name, random_rows(rng, form, *shape), raw_dtype=T[form])

        add("token_embd.weight", "token_embd", 0, (VOCAB, WIDE["dim"]))
        w.add_tensor("output_norm.weight", one)
        for layer in range(WIDE["layers"]):
            w.add_tensor(f"blk.{layer}.attn_norm.weight", one)
            w.add_tensor(f"blk.{layer}.ffn_norm.weight", one)
            for tensor, shape in _matrices().items():
                add(f"blk.{layer}.{tensor}.weight", tensor, layer, shape)
        _finish(w)

    return write


def q4_k_m(tensor: str, layer: int) -> str:
    """llama.cpp's Q4_K_M: more bits for the embedding, and for values and down projections of the
    first and last eighth of the layers and every third between (`use_more_bits`)."""
    n, eighth = WIDE["layers"], WIDE["layers"] // 8
    often = layer < eighth or layer >= 7 * n // 8 or (layer - eighth) % 3 == 2
    more = tensor == "token_embd" or (tensor in ("attn_v", "ffn_down") and often)
    return "Q6_K" if more else "Q4_K"


def _matrices() -> dict[str, tuple[int, int]]:
    dim, ffn = WIDE["dim"], WIDE["ffn"]
    q, kv = WIDE["heads"] * HEAD_DIM, WIDE["kv_heads"] * HEAD_DIM
    return {
        "attn_q": (q, dim),
        "attn_k": (kv, dim),
        "attn_v": (kv, dim),
        "attn_output": (dim, q),
        "ffn_gate": (ffn, dim),
        "ffn_up": (ffn, dim),
        "ffn_down": (dim, ffn),
    }


def _writer(
    reader: GGUFReader, path: Path, *, dim: int, layers: int, ffn: int, heads: int, kv_heads: int
) -> GGUFWriter:
    """A llama of these sizes with the vocabulary of `reader`."""
    w = GGUFWriter(path, "llama")
    w.add_context_length(8192)
    w.add_embedding_length(dim)
    w.add_block_count(layers)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(100000.0)
    w.add_rope_dimension_count(HEAD_DIM)
    w.add_vocab_size(VOCAB)
    found = {k: reader.fields[f"tokenizer.ggml.{k}"].contents() for k in KEYS}
    w.add_tokenizer_model(found["model"])
    w.add_tokenizer_pre(found["pre"])
    w.add_token_list(found["tokens"])
    w.add_token_types(found["token_type"])
    w.add_token_merges(found["merges"])
    w.add_bos_token_id(found["bos_token_id"])
    w.add_eos_token_id(found["eos_token_id"])
    return w


def _finish(w: GGUFWriter) -> None:
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def _same(source: Path, path: Path) -> None:
    path.symlink_to(source.resolve())


FILES: Mapping[str, Callable[[Path, Path], None]] = {
    "smol-Q4_1.gguf": _same,
    "smol-Q4_0.gguf": requantized(T.Q4_0, T.Q8_0),
    "smol-Q8_0.gguf": requantized(T.Q8_0, T.Q8_0),
    "smol-BF16.gguf": requantized(T.BF16, T.BF16),
    "smol-bf16": as_safetensors,
    "1b-Q4_0.gguf": random(lambda tensor, layer: "Q4_0"),
    "1b-Q8_0.gguf": random(lambda tensor, layer: "Q8_0"),
    "1b-Q4_K_M.gguf": random(q4_k_m),
    "1b-Q6_K.gguf": random(lambda tensor, layer: "Q6_K"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", choices=[*FILES, []], metavar="NAME")
    parser.add_argument("--source", type=Path, help="SmolLM2's Q4_1 file")
    asked = parser.parse_args()
    for name in asked.names or FILES:
        sys.stdout.write(f"{make(asked.folder, name, asked.source)}\n")


if __name__ == "__main__":
    main()
