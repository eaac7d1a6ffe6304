"""How long an engine needs for the files of an 8B model that are in memory already.

make FOLDER: write llama-8b.safetensors (bf16) and llama-8b.gguf (Q4_K_M), random, to a folder.
time PATH [--repeats N] [--cold]: start a process for each run, and print the seconds of loading and
those from the process's start to the first token. --cold: the first run finds no kept kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from rbee_worker.models.random import RandomSource, random_checkpoint
from rbee_worker.models.shapes import SHAPES

LAYERS, DIM, FFN, KV, VOCAB = 32, 4096, 14336, 1024, 128256
PIECE = 64 << 20  # bytes that a thread writes at a time
NAMES = {  # of a GGUF file -> rows and columns
    "attn_q": (DIM, DIM),
    "attn_k": (KV, DIM),
    "attn_v": (KV, DIM),
    "attn_output": (DIM, DIM),
    "ffn_gate": (FFN, DIM),
    "ffn_up": (FFN, DIM),
    "ffn_down": (DIM, FFN),
}


def say(text: str) -> None:
    """A line of output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def make(folder: Path) -> None:
    """Write both models."""
    began = time.perf_counter()
    plain = folder / "llama-8b"
    plain.mkdir(parents=True, exist_ok=True)
    shape = {**SHAPES["llama-8b"], "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
    (plain / "config.json").write_text(json.dumps(shape))
    as_safetensors(plain / "model.safetensors")
    say(f"{plain}: {time.perf_counter() - began:.1f} s")
    as_q4_k_m(folder / "llama-8b.gguf")
    say(f"{folder / 'llama-8b.gguf'}: {time.perf_counter() - began:.1f} s")


def as_safetensors(path: Path) -> None:
    """Every tensor of the shape, matrices in bf16, norms in float32."""
    source: Any = random_checkpoint("llama-8b", "bf16").source
    header, at = {}, 0
    for name in source.names():
        info = source.info(name)
        end = at + info.nbytes
        header[name] = {"dtype": info.format, "shape": list(info.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC)
    os.ftruncate(file, 8 + len(text) + at)
    os.pwrite(file, len(text).to_bytes(8, "little") + text, 0)
    first = 8 + len(text)
    with ThreadPoolExecutor(8) as threads:
        for name in source.names():
            data = memoryview(source.read(name).data).cast("B")
            start = first + header[name]["data_offsets"][0]
            list(
                threads.map(
                    lambda i, data=data, start=start: written(file, data[i : i + PIECE], start + i),
                    range(0, len(data), PIECE),
                )
            )
    os.close(file)


def written(file: int, data: memoryview, at: int) -> None:
    """Write all of `data`: a call writes 2 GB at most."""
    while data:
        n = os.pwrite(file, data, at)
        data, at = data[n:], at + n


def as_q4_k_m(path: Path) -> None:
    """The mixture of formats that llama.cpp's quantizer makes; no vocabulary."""
    from gguf import GGMLQuantizationType, GGUFWriter

    w = GGUFWriter(path, "llama")
    w.add_context_length(131072)
    w.add_embedding_length(DIM)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(FFN)
    w.add_head_count(32)
    w.add_head_count_kv(8)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(500000.0)
    w.add_rope_dimension_count(128)
    w.add_vocab_size(VOCAB)

    def add(name: str, form: str, rows: int, cols: int) -> None:
        source = RandomSource({name: form}, {name: (rows, cols)}, pools)
        w.add_tensor(name, source.read(name).data, raw_dtype=GGMLQuantizationType[form])

    import numpy as np

    pools: dict[Any, Any] = {}
    one = np.ones(DIM, np.float32)
    add("token_embd.weight", "Q4_K", VOCAB, DIM)
    add("output.weight", "Q6_K", VOCAB, DIM)
    w.add_tensor("output_norm.weight", one)
    for layer in range(LAYERS):
        w.add_tensor(f"blk.{layer}.attn_norm.weight", one)
        w.add_tensor(f"blk.{layer}.ffn_norm.weight", one)
        often = layer < LAYERS // 8 or layer >= 7 * LAYERS // 8 or (layer - LAYERS // 8) % 3 == 2
        for name, (rows, cols) in NAMES.items():
            more = often and name in ("attn_v", "ffn_down")
            add(f"blk.{layer}.{name}.weight", "Q6_K" if more else "Q4_K", rows, cols)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def one(path: str, began: float) -> None:
    """Be the engine's process: load, compute one token, say how long it took."""
    from benchmarks.gpu import Driver
    from rbee_worker.config import Settings
    from rbee_worker.loading.load import load_engine

    imported = time.time() - began
    engine, info = load_engine(
        Settings(model=path, backend="cuda", ctx=4096, max_seqs=64, prefix_cache=False),
        lambda _: None,
    )
    loaded = time.time() - began
    driver = Driver(engine, info.vocab_size)
    driver.prefill(1, 64)
    token = time.time() - began
    phases = {name: round(value, 2) for name, value in info.load_s.items()}
    say(
        f"imports {imported:.2f}, loaded after {loaded:.2f} (loading {sum(phases.values()):.2f}: "
        f"{phases}), first token after {token:.2f} s; cache of {info.kv_tokens:,} tokens"
    )


def timed(path: str, repeats: int, cold: bool) -> None:
    """Some runs, each in a process of its own."""
    with tempfile.TemporaryDirectory() as fresh:
        for n in range(repeats):
            kept = {"TRITON_CACHE_DIR": fresh} if cold else {}
            say("no kernels are kept:" if cold and not n else "kernels are kept:")
            command = [sys.executable, "-m", "benchmarks.gpu_files", "one", path]
            subprocess.run([*command, f"--began={time.time()}"], env={**os.environ, **kept})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["make", "time", "one"])
    parser.add_argument("path")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--began", type=float, default=0.0)
    asked = parser.parse_args()
    if asked.what == "make":
        make(Path(asked.path))
    elif asked.what == "one":
        one(asked.path, asked.began)
    else:
        timed(asked.path, asked.repeats, asked.cold)


if __name__ == "__main__":
    main()
