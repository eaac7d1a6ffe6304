"""The cache in fewer bits on the CPU: what it changes, and what long contexts cost.

    python -m benchmarks.kv_cache quality MODEL
    python -m benchmarks.kv_cache speed MODEL.gguf --lengths 512 8192 32768 [--peer-python PYTHON]

quality: perplexity, KL divergence and the share of equal most likely tokens, beside a cache in
float32, over texts of this repository.

speed: one decoding step after so many tokens, and a step of 512 rows that ends there (a prompt's
last part; the first parts cost less), with the share of it that attention takes: what it takes
more than at the beginning. The cache holds one block of real keys and values over and over: how
long a step takes depends on how many there are, not on what they are. Last llama.cpp's figures with
flash attention.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import rbee_worker
from benchmarks.gguf_copy import write_copy
from rbee_worker.engine.messages import Submit
from rbee_worker.engine.scheduler import Chunk, Plan
from rbee_worker.library import Model
from rbee_worker.machine import allowed_cores
from rbee_worker.types import SamplingParams

DOCS = Path(__file__).parents[1] / "docs"
TEXTS = ("design.md", "crashes.md", "adapters.md")
TYPES = ("f32", "bf16", "f16", "i8")
TIMED = ("f32", "f16", "i8")
ROWS = 512


def log_chances(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities [N, vocab], float32."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def quality(name: str, tokens: int) -> dict[str, tuple[float, float, float]]:
    """By type of the cache: perplexity, mean KL from float32, share of equal likeliest tokens."""
    found: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in TYPES}
    base: list[np.ndarray] = []
    for kind in TYPES:
        with rbee_worker.load(name, backend="cpu", kv_dtype=kind) as model:
            for number, file in enumerate(TEXTS):
                ids = model.tokenizer.encode((DOCS / file).read_text())[:tokens]
                logs = log_chances(model.logits(ids)[:-1])
                if kind == "f32":
                    base.append(logs)
                loss = -logs[np.arange(len(logs)), ids[1:]].mean()
                exact = base[number]
                kl = (np.exp(exact) * (exact - logs)).sum(axis=1).mean()
                same = (exact.argmax(axis=1) == logs.argmax(axis=1)).mean()
                found[kind].append((float(loss), float(kl), float(same)))
    means = {kind: np.mean(np.array(rows), axis=0) for kind, rows in found.items()}
    return {kind: (float(np.exp(m[0])), float(m[1]), float(m[2])) for kind, m in means.items()}


def step_s(model: Model, before: int, rows: int, rounds: int) -> float:
    """Seconds of a step of `rows` rows after `before` tokens: the median of some after a first
    one, or the only one."""
    engine = model._running()
    runner, pool = engine.runner, engine.pool
    ids = tuple(100 + n % 1000 for n in range(before + rows))
    seq = engine.sequence(Submit(seq="x", prompt_ids=ids, params=SamplingParams()))
    pool.attach(seq.state)
    if before:
        assert pool.reserve(seq.state, before) == before
        pool.commit(seq.state, before)
    assert pool.reserve(seq.state, rows) == rows
    chunk = Chunk(seq, seq.state, before, rows, 1)
    times = []
    for _ in range(rounds + (rounds > 1)):
        began = time.perf_counter()
        batch = runner._staged(Plan([chunk]))[1]
        runner._model.logits(batch)
        times.append(time.perf_counter() - began)
    pool.commit(seq.state, rows)
    pool.release(seq.state)
    return statistics.median(times[rounds > 1 :])


def fill(model: Model) -> None:
    """Every block of the cache with what the first written one holds. (Memory that was never
    written is one page of zeros, which stays in the processor's own cache.)"""
    memory = model._running().runner._memory.memory
    for array in (a for paged in memory for a in (paged.k, paged.v)):
        written = next(n for n in range(1, array.shape[1]) if array[:, n].any())
        array[:] = array[:, written : written + 1]


def speed(source: Path, lengths: list[int], peer: str) -> None:
    """Print the table of `speed`; peer: a Python that has llama.cpp, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "long.gguf")
        most = max(lengths) + ROWS
        write_copy(source, path, context=most)
        for kind in TIMED:
            with rbee_worker.load(
                str(path), backend="cpu", kv_dtype=kind, ctx=most, kv_tokens=most, max_seqs=1,
                token_budget=ROWS, prefix_cache=False,
            ) as model:  # fmt: skip
                first = step_s(model, 0, ROWS, 3)
                fill(model)
                for length in lengths:
                    decode = step_s(model, length - 1, 1, 7)
                    last = step_s(model, max(length - ROWS, 0), ROWS, 1 + 2 * (length < 10_000))
                    sys.stdout.write(
                        f"{kind:4s} {length:6d} tokens: decode {1 / decode:7.1f} tok/s, prompt's "
                        f"last {ROWS} rows {ROWS / last:7.1f} tok/s, attention "
                        f"{max(1 - first / last, 0):.2f} of it\n"
                    )
                    sys.stdout.flush()
        if not peer:
            return
        program = [peer, str(Path(__file__).with_name("kv_cache_llamacpp.py")), str(path)]
        words = [str(n) for n in (allowed_cores(), *lengths)]
        running = subprocess.Popen(program + words, stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        for found in map(json.loads, running.stdout):
            sys.stdout.write(
                f"llama.cpp {found['what']} tokens: decode {found['decode']:7.1f} tok/s, prompt's "
                f"last {ROWS} rows {found['last']:7.1f} tok/s\n"
            )
            sys.stdout.flush()
        if running.wait():
            raise SystemExit(f"llama.cpp ended with {running.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    sub = parser.add_subparsers(dest="what", required=True)
    one = sub.add_parser("quality")
    one.add_argument("model")
    one.add_argument("--tokens", type=int, default=1500, help="of each text")
    two = sub.add_parser("speed")
    two.add_argument("model", type=Path)
    two.add_argument("--lengths", type=int, nargs="+", default=[ROWS, 8192, 32768])
    two.add_argument("--peer-python", default="")
    args = parser.parse_args()
    if args.what == "speed":
        speed(args.model, args.lengths, args.peer_python)
        return
    for kind, (perplexity, kl, same) in quality(args.model, args.tokens).items():
        sys.stdout.write(
            f"{kind:4s} perplexity {perplexity:.4f}, KL {kl:.2e}, same likeliest {same:.4f}\n"
        )


if __name__ == "__main__":
    main()
