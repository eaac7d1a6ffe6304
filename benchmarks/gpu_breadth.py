"""Kernels for breadth on a GPU: checked against float64, and timed beside what they replace.

python benchmarks/gpu_breadth.py [routed] [rows] [adapters] [taylor] [experts]. One line a case:
microseconds, of the launches that a kernel replaces too, and the largest error as a share of the
largest number. Weights take turns, so that they come from memory as in a model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor

from benchmarks.gpu_graphs import guarded, say, seconds
from rbee_worker.ops import Routing, Weight
from rbee_worker.ops.adapted import Sites, held
from rbee_worker.ops.cells import scan_shape
from rbee_worker.ops.cuda.adapters import CudaAdapters
from rbee_worker.ops.cuda.device_ops import DeviceOps
from rbee_worker.ops.cuda.kernels.adapters import add_adapters
from rbee_worker.ops.cuda.kernels.each import Step, each
from rbee_worker.ops.cuda.kernels.experts.experts import experts
from rbee_worker.ops.cuda.kernels.experts.route import route
from rbee_worker.ops.cuda.kernels.experts.routed import routed
from rbee_worker.ops.cuda.kernels.norm import norm
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences
from rbee_worker.ops.cuda.kernels.recurrence.taylor import taylor
from rbee_worker.ops.cuda.matrix import DeviceMatrix
from rbee_worker.ops.taylor import taylor_states

BF16, TURNS = torch.bfloat16, 24
PDL: dict[str, Any] = {"pdl": True}


def put(*shape: int, scale: float = 1.0, dtype: torch.dtype = BF16) -> Tensor:
    """Normal numbers on the GPU."""
    return (torch.randn(*shape, device="cuda") * scale).to(dtype)


def timed(calls: Sequence[Callable[[], Any]]) -> float:
    """Microseconds of one of these calls, which take turns in one graph."""
    return 1e6 * seconds(lambda: [call() for call in calls] and None) / len(calls)


def far(got: Tensor, want: Tensor) -> float:
    """The largest difference as a share of the largest number."""
    return float((got.double() - want.double()).abs().max() / want.double().abs().max())


def router(name: str, k: int, count: int, routing: Routing, rows: int) -> None:
    """A router in two launches and in three."""
    ops = DeviceOps("cuda", "bf16", pdl=True)
    weights = [put(count, k, scale=k**-0.5) for _ in range(TURNS)]
    held = [Weight(DeviceMatrix(count, k, w), count, k, "BF16", "bf16", 0) for w in weights]
    x, gain = put(rows, k), put(k, dtype=torch.float32).abs()
    before = (gain, 1e-6)

    def parts(weight: Weight) -> tuple[Tensor, Tensor, Tensor]:
        given = norm(x, gain, 1e-6, form=BF16, **PDL)[0]
        return given, *route(ops.logits(given, weight), routing, **PDL)

    given, ids, chosen = routed(x, weights[0], routing, norm=before, **PDL)
    x64 = x.double()
    want = x64 * (x64.square().mean(1, keepdim=True) + 1e-6).rsqrt() * gain.double()
    exact = route((given.double() @ weights[0].double().T).float(), routing)
    differ = int((ids != exact[0]).sum())
    three = timed([partial(parts, weight) for weight in held])
    line = f"{name:<12} {rows:>2} rows | three launches {three:6.1f} us |"
    for programs in (32, 64, 128, 256):
        how: dict[str, Any] = {"norm": before, "programs": programs, **PDL}
        one = timed([partial(routed, x, w, routing, **how) for w in weights])
        line += f" {programs}: {one:5.1f}"
    say(f"{line} | norm {far(given, want):.1e}, weights {far(chosen, exact[1]):.1e}, "
        f"{differ} ids differ")  # fmt: skip


def routers() -> None:
    """Of three mixtures."""
    grouped = Routing(8, "sigmoid", True, groups=8, top_groups=4, group_score="best two")
    for rows in (1, 2, 4, 8):
        for name, k, count, routing in (
            ("Qwen3-30B", 2048, 128, Routing(8, normalise=True)),
            ("Mixtral", 4096, 8, Routing(2, normalise=True)),
            ("DeepSeek-V3", 7168, 256, grouped),
        ):
            guarded(partial(router, name, k, count, routing, rows), f"router {name} {rows}")


def row(n: int, width: int) -> None:
    """An elementwise chain, and a norm with what follows it."""
    x, y, z = (put(n, width) for _ in range(3))
    steps = (Step("multiply", "silu"), Step("add"))
    got = each(x, [y, z], steps, form=BF16, **PDL)
    want = x.double() * torch.nn.functional.silu(y.double()) + z.double()
    ours = timed([partial(each, x, [y, z], steps, form=BF16, **PDL)] * TURNS)
    torchs = timed([lambda: x * torch.nn.functional.silu(y) + z] * TURNS)
    say(f"each {n:>5} x {width}: {ours:6.1f} us, torch {torchs:6.1f} us, {far(got, want):.1e}")
    gain = put(width, dtype=torch.float32)
    how: dict[str, Any] = {"form": BF16, **PDL}
    got = norm(x, gain, 1e-6, then=(Step("add"), y), **how)[0]
    x64 = x.double()
    want = x64 * (x64.square().mean(1, keepdim=True) + 1e-6).rsqrt() * gain.double() + y
    ours = timed([partial(norm, x, gain, 1e-6, then=(Step("add"), y), **how)] * TURNS)
    two = timed([lambda: norm(x, gain, 1e-6, **how)[0] + y] * TURNS)
    say(f"norm + add {n:>5} x {width}: {ours:.1f} us, two {two:.1f} us, {far(got, want):.1e}")


def rows_of() -> None:
    """One row, several, a prompt."""
    for n in (1, 64, 2048):
        guarded(partial(row, n, 4096), f"rows {n}")


def adapter(rank: int, rows: int, longest: int) -> None:
    """The packed projection of an 8B layer, with an adapter of this rank in every row."""
    site = (sites := Sites(2, rank)).add([("q", 4096), ("k", 1024), ("v", 1024)], 4096)
    memory = CudaAdapters(sites, "cuda", "bf16")
    pairs = [
        (
            put(rank, 4096, scale=1 / 64).float().cpu().numpy(),
            put(p.rows, rank).float().cpu().numpy(),
        )
        for p in site.parts
    ]
    memory.put(1, {site.number: tuple(held(a, b, 0.5, "f32") for a, b in pairs)})
    x, y = put(rows, 4096), put(rows, 6144)
    slots = torch.ones(rows, dtype=torch.int64, device="cuda")
    starts = torch.arange(0, rows + 1, longest, device="cuda")
    tables = memory.table(site)
    how: dict[str, Any] = {"rank": rank, "form": BF16, "longest_rows": longest, **PDL}
    more = [
        torch.from_numpy(b).cuda().double() @ torch.from_numpy(a).cuda().double() for a, b in pairs
    ]
    want = y.double() + 0.5 * torch.cat([x.double() @ m.T for m in more], 1)
    got = add_adapters(y.clone(), x, slots, starts, *tables, **how)
    time = timed([partial(add_adapters, y, x, slots, starts, *tables, **how)] * TURNS)
    say(f"adapter of rank {rank:>2}, {rows:>5} rows: {time:6.1f} us, {far(got, want):.1e}")


def adapters() -> None:
    """Decoding, and a prompt."""
    for rank in (8, 16, 64):
        for rows, longest in ((1, 1), (8, 1), (64, 1), (2048, 2048)):
            guarded(partial(adapter, rank, rows, longest), f"adapter {rank} {rows}")


def based() -> None:
    """A layer of Based-360M: 16 heads, keys of 16 columns, values of 64."""
    states = taylor_states(16)
    for sequences in (1, 8, 64):
        q, k, v = put(sequences, 256), put(sequences, 256), put(sequences, 1024)
        state = put(sequences + 1, *scan_shape(states, 65, 16), dtype=torch.float32).abs()
        where = Sequences(
            torch.arange(sequences + 1, device="cuda"),
            torch.arange(1, sequences + 1, device="cuda"),
            1,
        )
        got = taylor(q, k, v, state, where, heads=16, **PDL)
        time = timed([partial(taylor, q, k, v, state, where, heads=16, **PDL)] * TURNS)
        gb_s = 2 * state[1:].nbytes / time / 1e3
        say(f"taylor {sequences:>2} sequences: {time:6.1f} us, {gb_s:.0f} GB/s of state, finite "
            f"{bool(got.isfinite().all())}")  # fmt: skip


def mixture(rows: int) -> None:
    """The experts of Qwen3-30B-A3B in 8-bit floats with blocks, beside bf16."""
    dim, width, count, top = 2048, 768, 128, 8
    up, down = (
        put(count, 2 * width, dim, scale=dim**-0.5),
        put(count, dim, width, scale=width**-0.5),
    )

    def eight(whole: Tensor) -> tuple[Tensor, Tensor]:
        blocks = whole.float().unflatten(2, (-1, 128))
        scales = blocks.abs().amax(3) / 448
        return (blocks / scales[..., None]).flatten(2).to(torch.float8_e4m3fn), scales

    (up8, up_scales), (down8, down_scales) = eight(up), eight(down)
    steps = []
    for _ in range(max(2, min(TURNS, 2048 // rows))):
        logits = torch.randn(rows, count, device="cuda")
        steps.append((put(rows, dim), *route(logits, Routing(top, normalise=True))))
    more: dict[str, Any] = {"up_scales": up_scales, "down_scales": down_scales, **PDL}
    x, ids, weights = steps[0]
    got = experts(x, ids, weights, up8, down8, "silu", **more)[0]
    want = torch.zeros(dim, device="cuda", dtype=torch.float64)
    for e, w in zip(ids[0].tolist(), weights[0].tolist(), strict=True):

        def whole(v: Tensor, s: Tensor, e: int = e) -> Tensor:
            return (v[e].double().unflatten(1, (-1, 128)) * s[e].double()[..., None]).flatten(1)

        a, b = (whole(up8, up_scales) @ x[0].double()).chunk(2)
        want += w * (whole(down8, down_scales) @ (a * torch.sigmoid(a) * b))
    ours = timed([partial(experts, *step, up8, down8, "silu", **more) for step in steps])
    wide = timed([partial(experts, *step, up, down, "silu", **PDL) for step in steps])
    say(f"experts {rows:>4} rows: 8 bits {ours:7.1f} us, bf16 {wide:7.1f} us, {far(got, want):.1e}")


def mixtures() -> None:
    """Few rows and many."""
    for rows in (1, 4, 16, 64, 512):
        guarded(partial(mixture, rows), f"experts {rows}")


PARTS: dict[str, Callable[[], None]] = {
    "routed": routers,
    "rows": rows_of,
    "adapters": adapters,
    "taylor": based,
    "experts": mixtures,
}


def main(names: Sequence[str]) -> None:
    torch.manual_seed(0)
    for name in names or PARTS:
        guarded(PARTS[name], name)


if __name__ == "__main__":
    main(sys.argv[1:])
