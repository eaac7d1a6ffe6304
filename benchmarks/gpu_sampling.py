"""Sampling on a GPU: ids against the reference's, and the time of each kind of draw.

python benchmarks/gpu_sampling.py [--vocab V] [--step-us US]: the share of a decoding step of US
microseconds is printed. `launch` is the host's time for the same calls.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_graphs import compiling, guarded, say, seconds
from rbee_worker.ops.cuda.drawn import Drawn
from rbee_worker.ops.cuda.kernels.sampling.draw import draw, planned
from rbee_worker.ops.cuda.kernels.sampling.peaks import greedy
from rbee_worker.ops.cuda.sampling import CudaSampling
from rbee_worker.ops.reference.sampling.torch_sampling import TorchSampling
from rbee_worker.ops.sampling import DrawParams, Edits

DEVICE = torch.device("cuda")
KINDS = {  # scale, top_k, top_p, min_p
    "temperature": (1.25, 0, 1.0, 0.0),
    "min_p": (1.25, 0, 1.0, 0.05),
    "top_k 40, top_p, min_p": (1.25, 40, 0.95, 0.05),
    "top_k 100": (1.0, 100, 1.0, 0.0),
    "top_p 0.95": (1.0, 0, 0.95, 0.0),
    "top_k 1000, top_p": (1.0, 1000, 0.9, 0.0),
}


def logits(rows: int, vocab: int, spread: float) -> Tensor:
    """Random logits: nearly flat, or as peaked as a trained model's."""
    z = torch.randn(rows, vocab, device=DEVICE)
    return z * spread


def draws(name: str, rows: int, rng: np.random.Generator) -> list[DrawParams | None]:
    """The parameters of rows of one kind."""
    return [DrawParams(*KINDS[name], u) for u in rng.random(rows).tolist()]


def check(vocab: int) -> None:
    """How many of some thousand ids differ from the reference's on the CPU."""
    rng = np.random.default_rng(0)
    sampling = CudaSampling(DEVICE, vocab, Drawn(DEVICE))
    reference = TorchSampling(torch.device("cpu"))
    for name in KINDS:
        wrong, count = 0, 0
        for spread, decimals in ((1.0, None), (4.0, None), (3.0, 1), (0.01, None)):
            z = logits(8, vocab, spread)
            if decimals is not None:
                z = z.round(decimals=decimals)  # ties
            params = draws(name, 8, rng)
            got = sampling.choose(z, params).host()
            want = reference.choose(z.cpu(), params).host()
            wrong += sum(a != b for a, b in zip(got, want, strict=True))
            count += 8
        say(f"{name:<24} {wrong} of {count} ids differ")
    z = logits(64, vocab, 1.0)
    z[3, 7], z[5], z[6, 9] = torch.nan, -torch.inf, torch.inf
    same = sampling.greedy(z).host() == reference.greedy(z.cpu()).host()
    say(f"greedy with nan, inf and -inf: equal {same}")
    found = sampling.score(z[8:16], [1] * 8, [5] * 8)
    wanted = reference.score(z[8:16].cpu(), [1] * 8, [5] * 8)
    far = max(abs(a.logprob - b.logprob) for a, b in zip(found, wanted, strict=True))
    ids = [[t for t, _ in one.top] for one in found] == [[t for t, _ in one.top] for one in wanted]
    say(f"scores: ids equal {ids}, log-probabilities by {far:.1e}")


def edited(rows: int, vocab: int) -> Callable[[Tensor], None]:
    """Apply and undo penalties on 300 tokens of every row."""
    table = CudaSampling(DEVICE, vocab, Drawn(DEVICE)).bias_table(rows)
    for slot in range(rows):
        ids = np.random.default_rng(slot).permutation(vocab)[:300].tolist()
        table.write(slot, ids, [[0.0, 0.0, 1.0, 2.0]] * 300, (1.1, 0.1, 0.1))
    slots = list(range(rows))
    edits = Edits(slots, slots, [300] * rows, [False] * rows, False, True, True)

    def run(z: Tensor) -> None:
        table.apply(z, edits)(z)

    return run


def host_time(call: Callable[[], Any]) -> float:
    """Seconds of the host per call, without waiting for the device."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        call()
    spent = (time.perf_counter() - start) / 20
    torch.cuda.synchronize()
    return spent


def measure(rows: int, vocab: int, step: float) -> None:
    """Every kind at this number of rows."""
    rng = np.random.default_rng(1)
    zs = [logits(rows, vocab, 1.0) for _ in range(3)]
    flat = vocab * rows * 4 / 4.69e12

    def line(name: str, on_device: Callable[[Tensor], Any], whole: Callable[[Tensor], Any]) -> None:
        def all_of_them() -> None:
            for z in zs:
                on_device(z)

        took = seconds(all_of_them) / len(zs)
        host = host_time(partial(whole, zs[0]))
        say(
            f"{rows:>3} rows {name:<24} {took * 1e6:8.1f} us, launch {host * 1e6:6.1f} us, "
            f"{took / step:6.2%} of a step; logits read once {flat * 1e6:.1f} us"
        )

    sampling = CudaSampling(DEVICE, vocab, Drawn(DEVICE))
    guarded(partial(line, "greedy", greedy, sampling.greedy), "greedy")
    for name in KINDS:
        params = draws(name, rows, rng)
        plan = planned(params, vocab)
        settings = torch.from_numpy(plan.settings).to(DEVICE)
        guarded(
            partial(
                line,
                name,
                partial(_drawn, plan, settings),
                partial(_chosen, sampling, params),
            ),
            name,
        )
    run = edited(rows, vocab)
    spent = host_time(partial(run, zs[0]))
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(20):
        run(zs[0])
    end.record()
    end.synchronize()
    took = start.elapsed_time(end) * 1e3 / 20
    say(f"{rows:>3} rows penalties and back: {took:.1f} us, launch {spent * 1e6:.1f} us")


def _drawn(plan: Any, settings: Tensor, z: Tensor) -> Tensor:
    return draw(z, plan, settings)


def _chosen(sampling: CudaSampling, params: list[DrawParams | None], z: Tensor) -> Any:
    return sampling.choose(z, params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--step-us", type=float, default=5100)
    asked = parser.parse_args()
    torch.manual_seed(0)
    with compiling():
        z = torch.zeros(64, asked.vocab, device=DEVICE)
        greedy(z)
        for name in KINDS:
            plan = planned(draws(name, 64, np.random.default_rng(0)), asked.vocab)
            draw(z, plan, torch.from_numpy(plan.settings).to(DEVICE))
    guarded(partial(check, asked.vocab), "check")
    for rows in (1, 8, 64):
        guarded(partial(measure, rows, asked.vocab, asked.step_us * 1e-6), f"{rows} rows")


if __name__ == "__main__":
    main()
