"""What a decoding step costs outside native code: MODEL SEQUENCES [THREADS]. Microseconds.

Of our side of benchmarks/cpu.py (cpu_model.py), of the engine's step, greedy and drawing: the wall
time of each step less that of its replays. Without native work the same code is several times
faster, because it then finds itself in the caches.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.cpu_model import Sequences
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Submit
from rbee_worker.loading.load import load_engine
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.types import SamplingParams

PROMPT, STEPS = 16, 100
KINDS = {
    "greedy": SamplingParams(temperature=0.0, max_tokens=STEPS + 9, ignore_eos=True),
    "drawn": SamplingParams(
        temperature=0.7, top_k=40, top_p=0.95, max_tokens=STEPS + 9, ignore_eos=True
    ),
}


class Gaps:
    """Times steps and, apart, the replays of a team in them."""

    def __init__(self, team: Team) -> None:
        self._replay, self._native = team.replay, 0.0
        team.replay = self._timed  # type: ignore[method-assign]

    def _timed(self, *args: int) -> None:
        start = time.perf_counter()
        self._replay(*args)
        self._native += time.perf_counter() - start

    def of(self, step: Callable[[], object]) -> str:
        """Median and lowest tenth of a step's microseconds outside replays, and inside."""
        outside, inside = [], []
        for _ in range(STEPS):
            self._native = 0.0
            start = time.perf_counter()
            step()
            outside.append(1e6 * (time.perf_counter() - start - self._native))
            inside.append(1e6 * self._native)
        tenth = statistics.quantiles(outside, n=10)[0]
        return (
            f"{statistics.median(outside):7.0f} {tenth:7.0f}   "
            f"native {statistics.median(inside):7.0f}"
        )


def main(path: str, count: int, threads: int) -> None:
    settings = Settings(model=path, backend="cpu", threads=threads, max_seqs=max(8, count))
    engine, _ = load_engine(settings, lambda loading: None)
    model = engine.runner._model
    assert isinstance(model, CpuModel)
    gaps, sampling = Gaps(model.team), model.ops.sampling(model.vocab_size)
    seqs = Sequences(model, count)
    ids, done = [list(range(100, 100 + PROMPT))] * count, 0

    def decode() -> None:
        nonlocal ids, done
        logits = seqs.feed(ids, done)
        done += len(ids[0])
        ids = [[token] for token in sampling.greedy(logits).host()]

    decode()
    decode()
    sys.stdout.write(f"{'':16s} median  lowest tenth\nbenchmark       {gaps.of(decode)}\n")
    for kind, params in KINDS.items():
        for number in range(count):
            prompt = tuple(range(100 + number, 100 + number + PROMPT))
            engine.submit(Submit(seq=f"{kind} {number}", prompt_ids=prompt, params=params))
        for _ in range(4):
            engine.step()
        sys.stdout.write(f"engine, {kind:7s} {gaps.of(engine.step)}\n")
        while not engine.idle:
            engine.step()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
