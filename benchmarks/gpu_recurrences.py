"""Recurrences on a GPU: a table of kernels beside fla's, and a whole Mamba of 2.8 billion weights.

python benchmarks/gpu_recurrences.py [kernels] [engine] [--budget SECONDS] [--without-fla] [--quick]
                                     [--ask MIB]

A kernel's row: microseconds of a launch, the share of that in which the memory could bring its
numbers, and the largest error of y and of the last state as a share of the largest number of
float64's row by row. Beside it the same of fla's kernel (flash-linear-attention), if it can be
imported. Launches take turns with states, so that these come from memory. --quick: tiny shapes in
Triton's interpreter, where there is no GPU. --ask: how much of a matrix the engine's launches ask
for ahead (ops/cuda/kernels/prefetch.py), 0: nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

if not torch.cuda.is_available():  # before anything imports Triton
    os.environ["TRITON_INTERPRET"] = "1"

from benchmarks.gpu_engine import Driver, events, medians
from benchmarks.gpu_graphs import elapsed, guarded, say, seconds
from benchmarks.gpu_recurrence_cases import CASES, Case
from rbee_worker.config import Settings
from rbee_worker.loading.load import load_engine
from rbee_worker.ops.cuda.kernels import prefetch

SIZES = ((1, 2048), (8, 2048), (64, 1))
TRIAL = ((1, 70), (2, 33), (3, 1))
MAMBA = {  # state-spaces/mamba-2.8b
    "model_type": "mamba", "vocab_size": 50280, "hidden_size": 2560, "num_hidden_layers": 64,
    "state_size": 16, "expand": 2, "conv_kernel": 4, "time_step_rank": 160, "use_bias": False,
    "use_conv_bias": True, "residual_in_fp32": True, "tie_word_embeddings": True,
}  # fmt: skip
SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "time_step_rank": 2}
COLD = 256 << 20  # bytes of states that take turns
SCAN = ("_space", "_ends", "_firsts")  # kernels of the scan
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


# ---- a whole engine


def engine(asked: Any, layers: int = 64) -> None:
    """Decoding of 1, 8 and 64 sequences, a prompt of 2,048 tokens, what its scan takes, and the
    kernels of a decoding step."""
    path = Path(tempfile.mkdtemp()) / "config.json"
    path.write_text(
        json.dumps({**MAMBA, "num_hidden_layers": layers, **(SMALL if asked.quick else {})})
    )
    small = {"ctx": 256, "kv_tokens": 1024, "token_budget": 64, "max_seqs": 4}
    large = {"ctx": 4096, "kv_tokens": 65536, "token_budget": 8192, "max_seqs": 64}
    if asked.ask is not None:
        prefetch.MOST = int(asked.ask * (1 << 20))
    settings = {"model": f"random:bf16:{path}", "backend": "cuda", "prefix_cache": False}
    if asked.quick:
        settings["dtype"] = "f32"
    whole, info = load_engine(Settings(**settings, **(small if asked.quick else large)), print_not)
    say(f"Mamba 2.8B, {info.weight_bytes / 1e9:.2f} GB of weights, {info.dtype}: {info.load_s}")
    driver = Driver(whole, info.vocab_size)
    if asked.quick:
        driver.submit(40, 2)
        driver.run()
        return
    gauge: Any = whole._figures.gauge
    c = MAMBA
    wide: Any = c["expand"] * c["hidden_size"] * c["num_hidden_layers"]  # type: ignore[operator]
    of_one = 4 * wide * 2 * (c["state_size"] + c["conv_kernel"] - 1)  # read and written
    for count in (1, 8, 64):

        def decode(count: int = count) -> None:
            rate = medians(lambda: driver.decode(count), 2)
            floor = gauge.floor_s([256] * count)
            states = count * of_one / gauge.bytes_s
            say(
                f"decode {count:>2}: {rate:9,.1f} tok/s, a step {1e3 * count / rate:6.3f} ms; "
                f"share of the floor {floor * rate / count:.3f}, with states "
                f"{(floor + states) * rate / count:.3f}"
            )

        guarded(decode, f"decode {count}")
    for count in (1, 8):

        def prefill(count: int = count) -> None:
            rate = medians(lambda: driver.prefill(count, 2048), 3)
            say(f"prefill {count} x 2048: {rate:9,.1f} tok/s, {1e3 * count * 2048 / rate:.2f} ms")

        guarded(prefill, f"prefill {count}")
    guarded(lambda: profiled(driver), "profile")
    guarded(
        lambda: say(step_profile(events(lambda: driver.decode(1)), layers)), "profile of a step"
    )


def profiled(driver: Driver) -> None:
    """The kernels of a prompt of 2,048 tokens."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        driver.prefill(1, 2048)
        torch.cuda.synchronize()
    events = sorted(found.key_averages(), key=lambda e: -e.device_time_total)
    busy = sum(e.device_time_total for e in events)
    scan = sum(e.device_time_total for e in events if e.key.startswith(SCAN))
    say(f"prefill 1 x 2048: kernels {busy / 1e3:.2f} ms, of which the scan {scan / busy:.1%}")
    for event in events[:10]:
        part, each = event.device_time_total / busy, event.device_time_total / event.count
        say(f"  {part:6.1%} {event.count:>5} x {each:8.1f} us  {event.key[:80]}")


def step_profile(traced: Sequence[tuple[str, int, int]], layers: int) -> str:
    """The kernels of a decoding step, each with the one before it, which says which of several
    products it is: its share, how many, microseconds of each. traced: name, start and end in
    nanoseconds of everything that the GPU did.

    A kernel's own time has its wait for the one before it (dependent launch), so the share is of
    the time by which it moves the end of the work: these times, and those with no work, are the
    step's.
    """
    steps: list[list[tuple[str, int, int, int]]] = []  # (key, own time, moved by, idle before)
    before, busy_to = "", 0
    for name, start, end in traced:
        if name == "_embed":
            steps.append([])
        if steps:
            moved, idle = max(0, end - max(start, busy_to)), max(0, start - busy_to)
            steps[-1].append((f"{name[:50]} after {before[:40]}", end - start, moved, idle))
        before, busy_to = name, max(busy_to, end)
    shapes = Counter(len(step) for step in steps)
    usual = [step for step in steps if len(step) == shapes.most_common(1)[0][0]][1:]
    total: dict[str, list[int]] = {}
    for key, own, moved, _ in (kernel for step in usual for kernel in step):
        sums = total.setdefault(key, [0, 0, 0])
        total[key] = [sums[0] + 1, sums[1] + own, sums[2] + moved]
    idle = sum(kernel[3] for step in usual for kernel in step)
    whole = idle + sum(sums[2] for sums in total.values())
    lines = [
        f"decode 1: {whole / len(usual) / 1e3:.1f} us a step of {len(usual[0])} kernels "
        f"({len(usual)} steps), {idle / whole:.1%} without work; a layer "
        f"{whole / len(usual) / 1e3 / layers:.2f} us"
    ]
    lines += [
        f"  {moved / whole:6.1%} {count / len(usual):5.0f} x {moved / count / 1e3:7.2f} us, with "
        f"its wait {own / count / 1e3:7.2f} us  {key}"
        for key, (count, own, moved) in sorted(total.items(), key=lambda one: -one[1][2])
    ]
    return "\n".join(lines)


def print_not(_: object) -> None:
    """Loading is not told."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["kernels", "engine"])
    parser.add_argument("--quick", action="store_true", help="tiny shapes, without fla")
    parser.add_argument("--without-fla", action="store_true")
    parser.add_argument("--budget", type=float, default=150.0, help="seconds, then no fla any more")
    parser.add_argument("--ask", type=float, help="MiB of the next matrix that launches ask for")
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
