"""What the steps of a mixed load are on a GPU: [SHAPE] [--count N] [--set NAME=VALUE ...].

Requests of 512 tokens in and 128 out, all there from the start. Steps of one kind (decoding or not,
and how many rows) are counted together: their median time from one step's first kernel to the
next one's, and the kernels in it, with launches and microseconds of a step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec

from benchmarks.gpu import Driver
from benchmarks.gpu_engine import events
from benchmarks.gpu_graphs import say
from rbee_worker.config import Settings
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.scheduler import Plan
from rbee_worker.loading.load import load_engine

FIRST = "_embed"  # a step's first kernel
SETTINGS = {
    "backend": "cuda",
    "ctx": 4608,
    "kv_tokens": 200_000,
    "token_budget": 8192,
    "max_seqs": 256,
    "prefix_cache": False,
}


def kind(plan: Plan) -> str:
    """A name for steps that are alike."""
    rows = sum(chunk.count for chunk in plan.chunks)
    single = sum(chunk.count == 1 for chunk in plan.chunks)
    if single == len(plan.chunks):
        return f"decode {-(-single // 50) * 50:>4}"
    return f"{'mixed' if single else 'prompts'} {-(-rows // 1024) * 1024:>5}"


def planned(engine: Engine) -> list[str]:
    """A list to which every later step adds its kind."""
    found: list[str] = []
    schedule = engine.scheduler.schedule

    def told() -> Plan:
        plan = schedule()
        if plan.chunks:
            found.append(kind(plan))
        return plan

    engine.scheduler.schedule = told  # type: ignore[method-assign]
    return found


def short(name: str) -> str:
    """A kernel's name without its template's arguments."""
    for start in ("void ", "at::native::", "(anonymous namespace)::"):
        name = name.replace(start, "")
    return name.split("(")[0][:70]


def profile(driver: Driver, kinds: list[str], count: int) -> None:
    """Run the load once more, and print a table for each kind of step."""
    kinds.clear()
    traced = events(lambda: driver.mixed(count))
    starts = [i for i, one in enumerate(traced) if one[0].startswith(FIRST)]
    if len(starts) != len(kinds):
        say(f"{len(starts)} steps on the device, {len(kinds)} planned: kinds may be wrong")
    spans: dict[str, list[float]] = defaultdict(list)
    launches: dict[str, Counter[str]] = defaultdict(Counter)
    times: dict[str, Counter[str]] = defaultdict(Counter)
    busy: dict[str, list[float]] = defaultdict(list)
    ends = [*starts[1:], len(traced)]
    for name, begin, end in zip(kinds, starts, ends, strict=False):
        over = traced[end][1] if end < len(traced) else traced[end - 1][2]
        spans[name].append((over - traced[begin][1]) / 1e3)
        covered, until = 0.0, 0
        for kernel, first, last in traced[begin:end]:
            launches[name][short(kernel)] += 1
            times[name][short(kernel)] += last - first
            covered += max(last - max(first, until), 0) / 1e3
            until = max(until, last)
        busy[name].append(covered)
    for name, some in spans.items():
        total, n = sum(some) / 1e6, len(some)
        say(
            f"{name}: {n} steps, median {statistics.median(some):,.0f} us, together {total:.3f} s; "
            f"something runs {statistics.median(busy[name]):,.0f} us"
        )
        for kernel, taken in times[name].most_common(14):
            each = launches[name][kernel] / n
            say(f"    {taken / n / 1e3:>9,.0f} us a step, {each:6.1f} launches  {kernel}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", nargs="?", default="llama-8b")
    parser.add_argument("--format", default="bf16")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--set", nargs="*", default=[], help="settings, as name=value")
    asked = parser.parse_args()
    changes: dict[str, Any] = dict(one.split("=", 1) for one in asked.set)
    given = {**SETTINGS, "model": f"random:{asked.format}:{asked.shape}", **changes}
    engine, info = load_engine(msgspec.convert(given, Settings, strict=False), lambda _: None)
    driver = Driver(engine, info.vocab_size)
    kinds = planned(engine)
    for _ in range(3):  # compiles and captures
        driver.mixed(asked.count)
    rates = sorted(driver.mixed(asked.count) for _ in range(3))
    say(f"mixed: {rates[1]:,.0f} tok/s ({rates[0]:,.0f} .. {rates[2]:,.0f})")
    profile(driver, kinds, asked.count)


if __name__ == "__main__":
    main()
