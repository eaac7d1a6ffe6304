"""Where a decoding step of one sequence goes: MODEL [THREADS] [bf16].

By kernel: calls, microseconds, their share of the step, bytes of weights and the rate at which they
are read. Times are the lead thread's, from one entry of the program to the next, so waiting at a
barrier counts for the kernel before it. `RBEE_CPU_READING` shows what another way to read costs.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.cpu_model import BLOCK, CONTEXT, Sequences, built
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.machine import allowed_cores
from rbee_worker.ops.cpu.backend.model import _whole
from rbee_worker.ops.cpu.backend.recorded import trace
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.recorder import Call
from rbee_worker.ops.cpu.shared.regions import Words

PROMPT, STEPS = 16, 40
SINGLE = Shape(1, 1, CONTEXT, BLOCK, "f16")


class Row(NamedTuple):
    """What one kernel takes of a step; nbytes: of weights."""

    kernel: str
    calls: int
    micros: float
    share: float
    nbytes: int


def rows(calls: Sequence[Call], times: Sequence[Words], micros: float) -> list[Row]:
    """The table, the longest first. times: the clock at each entry, of several steps; micros: how
    long a step takes by the wall clock."""
    spans = [statistics.median(t[n + 1] - t[n] for t in times) for n in range(len(calls))]
    ticks: dict[str, float] = defaultdict(float)
    nbytes = Counter[str]()
    for call, span in zip(calls, spans, strict=True):
        ticks[call.kernel] += span
        nbytes[call.kernel] += 0 if call.product is None else call.product.data.nbytes
    counts, whole = Counter(c.kernel for c in calls), sum(spans)
    made = [
        Row(name, counts[name], micros * t / whole, t / whole, nbytes[name])
        for name, t in ticks.items()
    ]
    return sorted(made, key=lambda row: -row.micros)


def table(found: Sequence[Row]) -> str:
    """As text, in the columns that the module's docstring names."""
    lines = [f"{'kernel':<24}{'calls':>6}{'us':>10}{'share':>8}{'MB':>9}{'GB/s':>7}"]
    for row in found:
        read = f"{row.nbytes / 1e6:9.1f}{row.nbytes / 1e3 / row.micros:7.1f}" if row.nbytes else ""
        lines.append(f"{row.kernel:<24}{row.calls:6}{row.micros:10.0f}{row.share:8.1%}{read}")
    return "\n".join(lines) + "\n"


def main(path: str, threads: int, bf16: bool) -> None:
    shape = Shape(PROMPT, 1, CONTEXT, BLOCK, "f16")
    model = built(open_checkpoint(path), shape, threads, bf16)
    decoder, stages = model.decoder, _whole(model.decoder, SINGLE)
    calls = trace(decoder.groups, decoder.width, model.ops, SINGLE, stages)[0].entries
    seqs, times, micros = Sequences(model, 1), list[Words](), list[float]()
    seqs.feed([list(range(100, 100 + PROMPT))], 0)
    for step in range(STEPS):
        start = time.perf_counter()
        seqs.feed([[100 + step]], PROMPT + step, times)
        micros.append(1e6 * (time.perf_counter() - start))
    sys.stdout.write(table(rows(calls, times, statistics.median(micros))))


if __name__ == "__main__":
    given = [word for word in sys.argv[2:] if word != "bf16"]
    main(sys.argv[1], int(given[0]) if given else allowed_cores(), "bf16" in sys.argv[2:])
