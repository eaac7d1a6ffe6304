"""Mixtures of experts on a GPU: checked against float64, timed, and the fastest tile shapes.

python benchmarks/gpu_experts.py [--read TB/s] [--shapes]. The layer of Qwen3-30B-A3B: hidden 2048,
128 experts of 768, 8 for each row, bf16. Each launch has other rows and ids, so that experts come
from memory as in a model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor

from benchmarks.gpu_graphs import compiling, guarded, say, seconds
from rbee_worker.ops import Routing
from rbee_worker.ops.cuda.kernels.experts import few, many
from rbee_worker.ops.cuda.kernels.experts.experts import experts, reads_by_row
from rbee_worker.ops.cuda.kernels.experts.few import FewShape
from rbee_worker.ops.cuda.kernels.experts.many import TileShape
from rbee_worker.ops.cuda.kernels.experts.route import route
from rbee_worker.ops.cuda.kernels.experts.sort import sort

DIM, WIDTH, COUNT, TOP = 2048, 768, 128, 8
ROUTING = Routing(TOP, normalise=True)
STEPS = (1, 2, 4, 8, 16, 32, 64, 256, 2048, 16384)

FEW_UP = [
    FewShape(*s)
    for s in (
        (2, 2048, 2, 4), (4, 2048, 2, 8), (4, 2048, 2, 4), (1, 2048, 2, 2), (2, 2048, 2, 2),
        (8, 512, 4, 4), (4, 1024, 3, 4), (8, 1024, 3, 8), (16, 256, 4, 4), (4, 512, 4, 2),
    )
]  # fmt: skip
FEW_DOWN = [
    FewShape(*s)
    for s in (
        (8, 1024, 2, 4), (4, 1024, 3, 4), (4, 1024, 4, 2), (2, 1024, 4, 2), (8, 256, 4, 4),
        (16, 256, 4, 4), (8, 256, 6, 4), (4, 1024, 4, 4), (8, 1024, 3, 8), (2, 1024, 0, 4),
        (4, 1024, 0, 4), (4, 1024, 0, 8), (8, 1024, 0, 8),
    )
]  # fmt: skip
TILE_UP = {
    16: ((64, 64, 4, 4), (64, 64, 6, 4), (64, 128, 3, 4), (64, 128, 4, 4), (128, 64, 4, 8),
         (64, 64, 4, 4, True), (64, 64, 6, 4, True), (64, 128, 4, 4, True)),
    64: ((64, 64, 4, 4), (128, 64, 4, 8), (64, 64, 4, 4, True), (128, 64, 4, 8, True)),
    128: ((128, 64, 4, 8), (128, 64, 4, 8, True), (128, 64, 3, 8, True), (64, 64, 4, 4, True)),
}  # fmt: skip
TILE_DOWN = {
    16: ((64, 128, 4, 4), (64, 256, 3, 4), (128, 64, 4, 4), (128, 128, 4, 4),
         (64, 128, 4, 4, True), (64, 128, 6, 4, True), (128, 128, 4, 4, True)),
    64: ((128, 64, 4, 4), (128, 64, 4, 4, True), (128, 64, 4, 8, True), (256, 64, 3, 8, True)),
    128: ((256, 64, 4, 8), (256, 64, 4, 8, True), (256, 64, 3, 8, True), (128, 64, 4, 4, True),
          (128, 64, 4, 8, True)),
}  # fmt: skip


class Layer:
    """One layer's experts, and steps of rows with ids."""

    def __init__(self) -> None:
        put = partial(torch.empty, device="cuda", dtype=torch.bfloat16)
        self.up = put(COUNT, 2 * WIDTH, DIM).normal_(0, DIM**-0.5)
        self.down = put(COUNT, DIM, WIDTH).normal_(0, WIDTH**-0.5)

    def steps(self, n: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(x, ids, weights) of several steps of n rows."""
        made = []
        for _ in range(max(2, min(24, 4096 // n))):
            x = torch.randn(n, DIM, device="cuda").bfloat16()
            logits = torch.randn(n, COUNT, device="cuda")
            made.append((x, *route(logits, ROUTING)))
        return made

    def exact(self, x: Tensor, ids: Tensor, weights: Tensor, rows: Iterable[int]) -> Tensor:
        """These rows in float64."""
        found = []
        for row in rows:
            total = torch.zeros(DIM, device="cuda", dtype=torch.float64)
            for e, w in zip(ids[row].tolist(), weights[row].tolist(), strict=True):
                a, b = (self.up[e].double() @ x[row].double()).chunk(2)
                total += w * (self.down[e].double() @ (a * torch.sigmoid(a) * b))
            found.append(total)
        return torch.stack(found)


def check_route() -> None:
    """Ids and weights of many rows against torch."""
    logits = torch.randn(4096, COUNT, device="cuda")
    ids, weights = route(logits, ROUTING)
    p = logits.double().softmax(1)
    best = logits.topk(TOP, dim=1).indices.sort(dim=1).values
    w = p.gather(1, best)
    far = float((weights - w / w.sum(1, keepdim=True)).abs().max())
    say(f"route: {int((ids != best).sum())} ids differ, weights by {far:.1e}")
    for n in (1, 64, 16384):
        rows = torch.randn(n, COUNT, device="cuda").bfloat16()
        ids = route(rows, ROUTING)[0]
        chosen = seconds(partial(ten, partial(route, rows, ROUTING, pdl=True))) / 10
        sorted_ = seconds(partial(ten, partial(sort, ids, COUNT, 64, pdl=True))) / 10
        say(f"{n:>6} rows: route {chosen * 1e6:.1f} us, sort {sorted_ * 1e6:.1f} us")


def ten(call: Callable[[], Any]) -> None:
    """Ten calls."""
    for _ in range(10):
        call()


def run_all(layer: Layer, steps: list[tuple[Tensor, Tensor, Tensor]]) -> list[Tensor]:
    """Every step through the layer."""
    return [experts(x, ids, w, layer.up, layer.down, "silu", pdl=True) for x, ids, w in steps]


def floor(steps: list[tuple[Tensor, Tensor, Tensor]], read: float) -> float:
    """Seconds to read the experts that a step uses."""
    used = sum(len(ids.unique()) for _, ids, _ in steps) / len(steps)
    return used * 3 * WIDTH * DIM * 2 / (read * 1e12)


def measure(layer: Layer, n: int, read: float) -> None:
    """One line: error, time, share of the floor."""
    steps = layer.steps(n)
    x, ids, weights = steps[0]
    some = sorted({0, n // 2, n - 1})
    junk = [torch.full((n, DIM), float("nan"), device="cuda").bfloat16() for _ in range(8)]
    del junk  # what torch.empty gives next is poisoned
    got = experts(x, ids, weights, layer.up, layer.down, "silu", pdl=True)
    want = layer.exact(x, ids, weights, some)
    far = float((got[some].double() - want).norm() / want.norm())
    time = seconds(partial(run_all, layer, steps), 9) / len(steps)
    flops = n * TOP * 3 * WIDTH * DIM * 2 / time / 1e12
    form = "few" if reads_by_row(n, TOP, COUNT) else "many"
    share = floor(steps, read) / time
    say(
        f"{n:>6} rows {form:<4} {time * 1e6:9.1f} us, {share:5.2f} of the floor, "
        f"{flops:6.1f} TFLOP/s, error {far:.1e}, finite {bool(got.isfinite().all())}"
    )


def shapes(layer: Layer, n: int, read: float) -> None:
    """The fastest shapes of both products, each beside the default of the other."""
    steps = layer.steps(n)
    if reads_by_row(n, TOP, COUNT):
        defaults = few._first_shape, few._second_shape
        first = defaults[0](DIM, 2, 2, TOP * WIDTH)
        second = defaults[1](WIDTH, 2, DIM, TOP)
        pairs = [(s, second) for s in (first, *FEW_UP)] + [(first, s) for s in FEW_DOWN]

        def choose(pair: Any) -> None:
            few._first_shape = lambda *_: pair[0]  # type: ignore[assignment]
            few._second_shape = lambda *_: pair[1]  # type: ignore[assignment]

        def restore() -> None:
            few._first_shape, few._second_shape = defaults

    else:
        default = many._shapes
        first, second = default(n * TOP / COUNT, True, 2)
        height = first.pairs
        pairs = [(TileShape(height, *s), second) for s in TILE_UP[height]]
        pairs += [(first, TileShape(height, *s)) for s in TILE_DOWN[height]]

        def choose(pair: Any) -> None:
            many._shapes = lambda *_: pair  # type: ignore[assignment]

        def restore() -> None:
            many._shapes = default

    with compiling():
        for pair in pairs:
            choose(pair)
            run_all(layer, steps[:1])
    times = []
    for pair in pairs:
        choose(pair)
        time = guarded(lambda: seconds(partial(run_all, layer, steps), 5) / len(steps), str(pair))
        if time is not None:
            times.append((time, pair))
    restore()
    for side, fixed in ((0, second), (1, first)):
        ranked = sorted((t, p[side]) for t, p in times if p[1 - side] == fixed)[:4]
        line = "; ".join(f"{t * 1e6:.1f} us {tuple(s)}" for t, s in ranked)
        name, least = ("up", "down")[side], floor(steps, read) * 1e6
        say(f"{n:>6} rows {name:<4} floor {least:.1f} us | {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--read", type=float, default=4.69)
    parser.add_argument("--rows", type=int, nargs="*", default=STEPS)
    parser.add_argument("--shapes", action="store_true", help="try other tile shapes")
    asked = parser.parse_args()
    torch.manual_seed(0)
    layer = Layer()
    with compiling():
        for n in asked.rows:
            x = torch.empty(n, DIM, device="cuda", dtype=torch.bfloat16)
            ids = torch.empty(n, TOP, device="cuda", dtype=torch.int32)
            run_all(layer, [(x, ids, torch.empty(n, TOP, device="cuda"))])
    guarded(check_route, "route")
    for n in asked.rows:
        guarded(partial(measure, layer, n, asked.read), f"{n} rows")
    if asked.shapes:
        for n in asked.rows:
            guarded(partial(shapes, layer, n, asked.read), f"shapes of {n} rows")


if __name__ == "__main__":
    main()
