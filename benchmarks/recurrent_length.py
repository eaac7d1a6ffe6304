"""Decoding late in a text beside early: MODEL.gguf ... [--lengths 100 10000] [--threads N].

A model that keeps a state of one size decodes as fast after 10,000 tokens as after 100, and keeps
as many bytes. Both texts are really computed, in one process, and their steps are timed in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import document
from benchmarks.cpu_model import BLOCK, Sequences, built
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.machine import allowed_cores
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.state.specs import Fixed

ROWS, STEPS = 512, 64


def measured(path: str, lengths: list[int], threads: int) -> list[float]:
    """Tokens a second at each length: medians of steps in turns."""
    context = max(lengths) + STEPS
    model = built(open_checkpoint(path), Shape(ROWS, 1, context, BLOCK, "f16"), threads)
    texts = [Sequences(model, 1, context) for _ in lengths]
    words = [(100 + n) % model.vocab_size for n in range(context)]
    for text, length in zip(texts, lengths, strict=True):
        for done in range(0, length, ROWS):
            text.feed([words[done : min(done + ROWS, length)]], done)
    times: list[list[float]] = [[] for _ in lengths]
    for step in range(STEPS):
        for text, length, spent in zip(texts, lengths, times, strict=True):
            began = time.perf_counter()
            text.feed([[words[length + step]]], length + step)
            spent.append(time.perf_counter() - began)
    kept = sum(g.layers * g.spec.nbytes for g in model.groups if isinstance(g.spec, Fixed))
    more = texts[0].bytes_a_token
    sys.stdout.write(f"{Path(path).name}: {kept / 1e6:.2f} MB of state, {more} bytes a token;")
    return [1 / statistics.median(spent) for spent in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("models", nargs="+")
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--threads", type=int, default=allowed_cores())
    asked = parser.parse_args()
    sys.stdout.write(document.conditions(threads=asked.threads) + "\n")
    for path in asked.models:
        rates = measured(path, asked.lengths, asked.threads)
        shown = [f" {rate:.1f} tok/s at {n}" for n, rate in zip(asked.lengths, rates, strict=True)]
        sys.stdout.write(",".join(shown) + f" ({rates[-1] / rates[0]:.3f})\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
