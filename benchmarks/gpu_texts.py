"""Greedy answers of a real model on the GPU beside those of float32 on the CPU: PATH [--tokens N].

For each prompt: how many tokens are the same, and at the first other one the gap between the two
most likely tokens in float32, beside the noise: the largest difference of any token's
log-probability before that.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Finished, Submit, Tokens
from rbee_worker.loading.load import load_engine
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.types import SamplingParams, TokenLogprob

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea, there lived",
    "def fibonacci(n):\n    ",
    "Water boils at 100 degrees Celsius because",
    "The three laws of thermodynamics state that",
    "Dear Sir or Madam,\n\nI am writing to",
)


def answers(
    path: str, prompts: list[list[int]], tokens: int, **settings: Any
) -> list[list[TokenLogprob]]:
    """Each prompt's greedy tokens, with the two most likely ones at each place."""
    engine, _ = load_engine(
        Settings(model=path, ctx=1024, kv_tokens=8192, max_seqs=8, **settings), lambda _: None
    )
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True, logprobs=2)
    for n, ids in enumerate(prompts):
        engine.submit(Submit(seq=f"{n}", prompt_ids=tuple(ids), params=params))
    found: list[list[TokenLogprob]] = [[] for _ in prompts]
    while not engine.idle:
        for output in engine.step():
            if isinstance(output, Tokens):
                found[int(output.seq)] += output.logprobs or ()
            elif isinstance(output, Finished) and output.error is not None:
                raise SystemExit(f"a request failed: {output.error}")
    return found


def compared(want: list[TokenLogprob], got: list[TokenLogprob]) -> tuple[int, float, float]:
    """Equal tokens, the largest difference of their log-probabilities, the gap at the first
    other one (0: there is none)."""
    noise = 0.0
    for n, (a, b) in enumerate(zip(want, got, strict=True)):
        if a.id != b.id:
            return n, noise, a.top[0][1] - a.top[1][1]
        noise = max(noise, abs(a.logprob - b.logprob))
    return len(want), noise, 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--tokens", type=int, default=64)
    asked = parser.parse_args()
    tokenizer = load_tokenizer(open_checkpoint(asked.path))
    prompts = [tokenizer.encode(text) for text in PROMPTS]
    began = time.perf_counter()
    exact: dict[str, Any] = {"backend": "reference", "dtype": "f32", "kv_dtype": "f32"}
    want = answers(asked.path, prompts, asked.tokens, **exact)
    sys.stdout.write(f"float32 on the CPU: {time.perf_counter() - began:.1f} s\n")
    for name, changes in (
        ("f32", {"dtype": "f32", "kv_dtype": "f32", "exact_activations": True}),
        ("bf16", {"dtype": "bf16", "exact_activations": True}),
        ("bf16, activations in 8 bits", {"dtype": "bf16"}),
    ):
        got = answers(asked.path, prompts, asked.tokens, backend="cuda", **changes)
        for text, a, b in zip(PROMPTS, want, got, strict=True):
            same, noise, gap = compared(a, b)
            end = "all" if same == len(a) else f"then a gap of {gap:.4f}"
            sys.stdout.write(
                f"{name:<28} {same:>3} equal, {end}, noise {noise:.4f}: {text[:30]!r}\n"
            )
        text = tokenizer.decode([one.id for one in got[0]])
        sys.stdout.write(f"{name}: {text!r}\n")


if __name__ == "__main__":
    main()
