"""Recurrences on a GPU: a table of kernels beside fla's, and a whole Mamba of 2.8 billion weights.

python benchmarks/gpu_recurrences.py [kernels] [engine] [--budget SECONDS] [--without-fla] [--quick]

A kernel's row: microseconds of a launch, the share of that in which the memory could bring its
numbers, and the largest error of y and of the last state as a share of the largest number of
float64's row by row. Beside it the same of fla's kernel (flash-linear-attention), if it can be
imported. Launches take turns with states, so that these come from memory. --quick: tiny shapes in
Triton's interpreter, where there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

if not torch.cuda.is_available():  # before anything imports Triton
    os.environ["TRITON_INTERPRET"] = "1"

from benchmarks.gpu_graphs import elapsed, guarded, say, seconds
from benchmarks.gpu_mamba import engine
from benchmarks.gpu_recurrence_cases import CASES, Case

SIZES = ((1, 2048), (8, 2048), (64, 1))
TRIAL = ((1, 70), (2, 33), (3, 1))
COLD = 256 << 20  # bytes of states that take turns
WORKERS = 3  # processes that compile fla's kernels of one recurrence, each a share of the shapes

began = time.perf_counter()


def share(part: int, parts: int) -> None:
    """fla tries shapes for each kernel; let this process try only some of them."""
    from triton.runtime.autotuner import Autotuner

    every = Autotuner.prune_configs

    def some(self: Any, kwargs: Any) -> Any:
        configs = every(self, kwargs)
        return configs[part::parts] or configs[:1]

    Autotuner.prune_configs = some


@torch.inference_mode()
def compile_some(name: str, part: int, asked: Any) -> None:
    """Run kernels on few rows, so that they are in Triton's cache: fla's of a recurrence, with some
    of their shapes; our own, if part is WORKERS; those of an engine, with few layers."""
    if name == "engine":
        engine(asked, layers=1)
        return
    if part < WORKERS:
        share(part, WORKERS)
    kind = {one.__name__: one for one in CASES}[name]
    for count, length in ((1, 256), (8, 128), (64, 1)):
        case = made(kind, count, length, tiny=asked.quick)
        if part < WORKERS:
            launch = case.theirs(case.matrices(case.kept).contiguous())
            assert launch is not None
            launch()
        else:
            for run in forms(case).values():
                run(case.kept, case.places[0])
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def compile_all(asked: Any) -> None:
    """`compile_some` of everything, in several processes at a time."""
    environment = {**os.environ, "FLA_CACHE_RESULTS": "0"}
    some = [(kind.__name__, WORKERS) for kind in CASES] + [("engine", 0)]
    if not asked.without_fla:
        theirs = [kind.__name__ for kind in CASES if kind.theirs is not Case.theirs]
        some += [(name, part) for name in theirs for part in range(WORKERS)]
    running = {
        f"{name} {part}": subprocess.Popen(
            [sys.executable, __file__, "--compile", name, str(part)], env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for name, part in some
    }  # fmt: skip
    until, failed = time.perf_counter() + 80, []
    for name, one in running.items():
        try:
            if one.wait(max(0.1, until - time.perf_counter())):
                failed.append(name)
        except subprocess.TimeoutExpired:
            one.kill()
            failed.append(f"{name} (late)")
    took = time.perf_counter() - began
    say(f"compiled in {took:.0f} s; processes that failed: {', '.join(failed) or 'none'}")


def forms(case: Case) -> dict[str, Callable[..., Any]]:
    """Our kernels of a recurrence by name."""
    found = {"in order": case.kernel}
    if case.length > 1 and type(case).beside_each_other is not Case.beside_each_other:
        found["chunks"] = case.beside_each_other
    return found


def made(kind: type[Case], count: int, length: int, *, sets: int = 1, tiny: bool = False) -> Case:
    """A case on the GPU in bf16, or in float16 in the interpreter, which has no right bf16."""
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float16
    return kind(count, length, device="cuda" if cuda else "cpu", dtype=dtype, tiny=tiny, sets=sets)


def far(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest difference as a share of the largest number."""
    return float((got.double() - want.double()).abs().max() / want.double().abs().max())


def microseconds(calls: Sequence[Callable[[], Any]]) -> tuple[float, str]:
    """Of one of these calls, which take turns; and a mark if they could not be a CUDA graph."""
    if not torch.cuda.is_available():
        start = time.perf_counter()
        for call in calls:
            call()
        return 1e6 * (time.perf_counter() - start) / len(calls), ""
    for call in calls:
        call()
    torch.cuda.synchronize()
    try:
        return 1e6 * seconds(lambda: [call() for call in calls] and None, 9) / len(calls), ""
    except Exception:
        torch.cuda.synchronize()
        times = sorted(elapsed(lambda: [call() for call in calls]) for _ in range(9))
        return 1e6 * times[4] / len(calls), "*"


@torch.inference_mode()
def line(kind: type[Case], count: int, length: int, rate: float, asked: Any) -> None:
    """One row of the table. rate: of the memory, in bytes a second."""
    held = 4 * count * kind.heads * kind.states * kind.columns
    sets = min(16, -(-COLD // held)) if length == 1 and not asked.quick else 1
    case = made(kind, count, length, sets=sets, tiny=asked.quick)
    want, left = case.reference()
    ours = forms(case)
    for form, run in ours.items():
        state = case.kept.clone()
        y = run(state, case.places[0])
        errors = f"{far(y, want):8.1e} {far(case.matrices(state), left):8.1e}"
        took, mark = microseconds([partial(run, state, at) for at in case.places])
        text = f"{case.name:<27} {count:>2} x {length:<5} {form:<8} {took:9.1f}{mark:<1}"
        text += f" {1e6 * case.bytes() / rate / took:6.2f} {errors}"
        last = form == [*ours][-1]
        say(f"{text} | {theirs(case, want, left, took, asked)}" if last else text)


def theirs(case: Case, want: torch.Tensor, left: torch.Tensor, ours: float, asked: Any) -> str:
    """fla's half of a row, or why there is none."""
    if type(case).theirs is Case.theirs:
        return "fla has none"
    if asked.without_fla or time.perf_counter() - began > asked.budget:
        return "not asked for" if asked.without_fla else "no time left"
    try:
        states = case.matrices(case.kept).float().contiguous()
        launch = case.theirs(states)
        assert launch is not None
        y, h = launch()
        if (finished := getattr(case, "finished", None)) is not None:
            y = finished(y.double().flatten(0, 1).flatten(1))
        errors = f"{far(y.reshape(want.shape), want):8.1e} {far(h, left):8.1e}"
        took, mark = microseconds([launch])
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:160].replace("\n", " ")
    return f"{took:9.1f}{mark:<1} {errors} {took / ours:6.2f} | without {case.beside}"


def kernels(asked: Any) -> None:
    """The table."""
    rate = 1e9
    if torch.cuda.is_available():
        from rbee_worker.ops.cuda.bandwidth import read_gb_s

        guarded(lambda: compile_all(asked), "compiling")
        rate = 1e9 * read_gb_s()
        say(f"{torch.cuda.get_device_name()}, {rate / 1e9:,.0f} GB/s, torch {torch.__version__}")
    say(
        f"{'recurrence':<27} {'rows':<19} {'us':>9}  {'floor':>6} {'y':>8} {'state':>8} | "
        f"{'fla us':>9}  {'y':>8} {'state':>8} {'/ ours':>6} | what fla's time is without"
    )
    for kind in CASES:
        for count, length in TRIAL if asked.quick else SIZES:
            guarded(lambda k=kind, n=count, t=length: line(k, n, t, rate, asked), kind.__name__)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    say("*: not a CUDA graph, so with the time of the host")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["kernels", "engine"])
    parser.add_argument("--quick", action="store_true", help="tiny shapes, without fla")
    parser.add_argument("--without-fla", action="store_true")
    parser.add_argument("--budget", type=float, default=150.0, help="seconds, then no fla any more")
    parser.add_argument("--compile", nargs=2, metavar=("NAME", "PART"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.without_fla = asked.without_fla or asked.quick
    if asked.compile:
        compile_some(asked.compile[0], int(asked.compile[1]), asked)
        return
    for name, run in (("kernels", kernels), ("engine", engine)):
        if name in asked.parts:
            guarded(lambda run=run: run(asked), name)
            say(f"-- {name}: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
