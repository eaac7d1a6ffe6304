"""A whole engine on a GPU, without HTTP: SHAPE [--format FORMAT] [--rows ROW ...] [--json FILE].

Weights are random, so no checkpoint is needed. Rows are named as in docs/performance.md. A decode
row counts the tokens of all sequences after each has its first one, at contexts 128 to 384.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec

from benchmarks.gpu_graphs import say
from rbee_worker.config import Settings
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import Finished, Submit, Tokens
from rbee_worker.loading.load import load_engine
from rbee_worker.types import SamplingParams

PROMPT, TOKENS = 128, 256


class Driver:
    """Runs requests through an engine in this process."""

    def __init__(self, engine: Engine, vocab: int) -> None:
        self._engine, self._vocab, self._count = engine, vocab, 0

    def submit(self, prompt: int, tokens: int, **params: Any) -> str:
        """Queue a request with random ids; greedy, and ended by its length only."""
        self._count += 1
        ids = tuple((7919 * self._count + 31 * i) % self._vocab for i in range(prompt))
        name = f"{self._count}"
        wanted = {"temperature": 0.0, "ignore_eos": True, **params}
        sampling = SamplingParams(max_tokens=tokens, **wanted)
        self._engine.submit(Submit(seq=name, prompt_ids=ids, params=sampling))
        return name

    def run(self) -> dict[str, list[float]]:
        """Step until all is done: the times at which each request's tokens came."""
        times: dict[str, list[float]] = {}
        while not self._engine.idle:
            for output in self._engine.step():
                if isinstance(output, Tokens):
                    now = [time.perf_counter()] * len(output.ids)
                    times.setdefault(output.seq, []).extend(now)
                elif isinstance(output, Finished) and output.error is not None:
                    raise SystemExit(f"a request failed: {output.error}")
        return times

    def decode(self, count: int, **params: Any) -> float:
        """Tokens a second of `count` sequences together, after each has its first token."""
        for _ in range(count):
            self.submit(PROMPT, TOKENS + 1, **params)
        times = self.run()
        start, end = max(t[0] for t in times.values()), max(t[-1] for t in times.values())
        tokens = sum(sum(1 for at in t if at > start) for t in times.values())
        return tokens / (end - start)

    def prefill(self, count: int, prompt: int) -> float:
        """Prompt tokens a second of `count` prompts, to the last one's first token."""
        for _ in range(count):
            self.submit(prompt, 1)
        start = time.perf_counter()
        times = self.run()
        return count * prompt / (max(t[-1] for t in times.values()) - start)

    def mixed(self, count: int = 200) -> float:
        """All tokens a second, prompts of 512 and answers of 128, all there from the start."""
        for _ in range(count):
            self.submit(512, 128)
        start = time.perf_counter()
        self.run()
        return count * 640 / (time.perf_counter() - start)


def rows(driver: Driver) -> dict[str, Callable[[], float]]:
    """Every row of the table, by name."""
    drawn = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1}
    return {
        "decode 1": lambda: driver.decode(1),
        "decode 8": lambda: driver.decode(8),
        "decode 64": lambda: driver.decode(64),
        "decode 64 drawn": lambda: driver.decode(64, **drawn),
        "prefill 1 x 2048": lambda: driver.prefill(1, 2048),
        "prefill 8 x 2048": lambda: driver.prefill(8, 2048),
        "mixed": driver.mixed,
    }


def profile(measure: Callable[[], float]) -> None:
    """Print the kernels of a row: calls, time of each, share of all, and how busy the GPU was."""
    import torch
    from torch.profiler import ProfilerActivity

    start = time.perf_counter()
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as made:
        measure()
    wall = time.perf_counter() - start
    totals = sorted(made.key_averages(), key=lambda e: -e.device_time_total)
    busy = sum(e.device_time_total for e in totals)
    say(f"  kernels {busy / 1e6:.3f} s of {wall:.3f} s (dependent launches overlap)")
    for event in totals[:12]:
        share, each = event.device_time_total / busy, event.device_time_total / event.count
        say(f"  {share:6.1%} {event.count:>7} x {each:8.1f} us  {event.key[:90]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape")
    parser.add_argument("--format", default="bf16")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rows", nargs="*")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", action="store_true", help="each row's kernels and their times")
    parser.add_argument("--set", nargs="*", default=[], help="settings, as name=value")
    asked = parser.parse_args()
    began = time.perf_counter()
    changes = dict(one.split("=", 1) for one in asked.set)
    settings = msgspec.convert(
        {
            "model": f"random:{asked.format}:{asked.shape}",
            "backend": "cuda",
            "dtype": asked.dtype,
            "ctx": 4608,
            "kv_tokens": 65536,
            "token_budget": 8192,
            "max_seqs": 64,
            "prefix_cache": False,
            **changes,
        },
        Settings,
        strict=False,
    )
    engine, info = load_engine(settings, lambda _: None)
    say(f"{asked.shape} {asked.format} {info.dtype}: loaded {info.load_s}")
    driver = Driver(engine, info.vocab_size)
    driver.prefill(1, 64)
    first = time.perf_counter() - began
    say(f"first token after {first:.1f} s")
    found: dict[str, Any] = {"first_token_s": first, "load_s": info.load_s}
    for name, measure in rows(driver).items():
        if asked.rows and name not in asked.rows:
            continue
        try:
            measure()  # compiles, and captures graphs
            values = [measure() for _ in range(asked.repeats)]
        except Exception as error:
            say(f"{name:<18} failed: {type(error).__name__}: {error}"[:2000])
            continue
        found[name] = round(statistics.median(values), 1)
        spread = f"{min(values):,.0f} .. {max(values):,.0f}"
        say(f"{name:<18} {found[name]:>10,.1f} tok/s  ({spread})")
        if asked.profile:
            profile(measure)
    if asked.json:
        asked.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
