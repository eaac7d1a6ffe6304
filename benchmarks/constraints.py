"""What a constraint costs: the share of a decoding step that making and applying masks takes.

    python -m benchmarks.constraints [MODEL]

Sequences are held to a JSON Schema, alone and 32 together. Two times are measured in every step
that only decodes: that of following the grammars and making the masks (`Matcher`), and that of
excluding tokens: drawing with masks, less the same draws without. What is first draws logits that
no cache has near, so they take turns, and the mean of both turns' medians counts. The share is of
all steps together. Run it on a quiet machine.
"""

# ruff: noqa: T201

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import rbee_worker
from benchmarks.constraint_engines import PERSON
from rbee_worker.constraints.matcher import Matcher
from rbee_worker.library import Model
from rbee_worker.ops.cpu.backend.sampling import CpuSampling
from rbee_worker.types import End, Request

BATCHES = (1, 32)
TOKENS = 96
MOST = {1: 0.02, 32: 0.05}  # the share that it may take


class Watch:
    """Seconds in the functions that it is put around, since the last `read`. extra: of the draws
    that are made for comparison."""

    def __init__(self) -> None:
        self.making = self.applying = self.extra = 0.0
        self.plain_first = False

    def masks(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """A method of `Matcher`, timed."""

        def timed(*args: Any) -> Any:
            found, seconds = _timed(make, *args)
            self.making += seconds
            return found

        return timed

    def choose(self, choose: Callable[..., Any]) -> Callable[..., Any]:
        """`CpuSampling.choose`, with masks and without."""

        def timed(own: CpuSampling, logits: Any, params: Any, masks: Any = None) -> Any:
            self.plain_first = not self.plain_first
            plain = _timed(choose, own, logits, params)[1] if self.plain_first else 0.0
            found, held = _timed(choose, own, logits, params, masks)
            plain = plain or _timed(choose, own, logits, params)[1]
            self.applying += held - plain
            self.extra += plain
            return found

        return timed

    def read(self) -> tuple[float, float, float]:
        """(making, applying, extra), and start again."""
        found = self.making, self.applying, self.extra
        self.making = self.applying = self.extra = 0.0
        return found


def _timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    found = function(*args)
    return found, time.perf_counter() - start


class StepTimes(NamedTuple):
    """Seconds of a step: all of it, making masks, applying them."""

    whole: float
    making: float
    applying: float
    plain_first: bool


def steps(model: Model, batch: int, watch: Watch) -> list[StepTimes]:
    """Each step that decodes the whole batch."""
    messages = ({"role": "user", "content": "Describe a person as JSON, at length."},)
    params = {"json_schema": PERSON, "max_tokens": TOKENS, "temperature": 1.0}
    requests = [
        Request(id=f"{batch}-{n}", messages=messages, params={**params, "seed": n})
        for n in range(batch)
    ]
    engine = model._running()
    live = [model._start(request) for request in requests]
    found: list[StepTimes] = []
    ended = 0
    while ended < batch:
        watch.read()
        whole = _timed(model._step)[1]
        making, applying, extra = watch.read()
        running = engine.scheduler.running
        if len(running) == batch and all(seq.n_output > 1 for seq in running):
            found.append(StepTimes(whole - extra, making, applying, watch.plain_first))
        for one in live:
            while (event := one.events.take()) is not None:
                ended += isinstance(event, End)
    return found


def main() -> None:
    """Print a table."""
    watch = Watch()
    Matcher.masks = watch.masks(Matcher.masks)  # type: ignore[method-assign]
    Matcher.follow = watch.masks(Matcher.follow)  # type: ignore[method-assign]
    CpuSampling.choose = watch.choose(CpuSampling.choose)  # type: ignore[method-assign]
    name = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
    print("| batch | steps | step, ms | masks, us | applying, us | share of the step | most |")
    print("|---|---|---|---|---|---|---|")
    with rbee_worker.load(name, backend="cpu") as model:
        steps(model, 2, watch)  # grammars are compiled and memory is touched
        for batch in BATCHES:
            rows = steps(model, batch, watch)
            whole, made = (statistics.median(row[i] for row in rows) for i in range(2))
            turns = [[r.applying for r in rows if r.plain_first is turn] for turn in (True, False)]
            applied = statistics.mean(map(statistics.median, turns))
            spent = sum(row.making for row in rows) + applied * len(rows)
            share = spent / sum(row.whole for row in rows)
            print(
                f"| {batch} | {len(rows)} | {whole * 1e3:.1f} | {made * 1e6:.0f} | "
                f"{applied * 1e6:.0f} | {share:.1%} | {MOST[batch]:.0%} |"
            )


if __name__ == "__main__":
    main()
