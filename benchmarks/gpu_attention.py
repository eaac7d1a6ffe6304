"""Attention kernels on one GPU: errors against float64, then times beside the floor.

    python -m benchmarks.gpu_attention [--rate 4.69] [--flops 767] [--only TEXT] [--no-sweep]

Everything that a run launches is compiled first, in parallel. Errors: fresh random inputs, memory
that holds NaN until a kernel writes it. Times: medians of replayed CUDA graphs whose launches
rotate over more keys than the L2 cache holds. Floor: bytes of keys and values at `rate` TB/s, or
operations at `flops` TFLOP/s. A failure is printed, and the rest goes on. About 60 s on one H200.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

os.environ["RBEE_TEST_GPU"] = "1"  # read when the tests' cases are imported

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_attention_cases import errors
from benchmarks.gpu_graphs import compiling, elapsed, guarded, say, seconds
from rbee_worker.ops.cuda.kernels.attention.attend import attend
from rbee_worker.ops.cuda.kernels.attention.attend_decode import attend_decode
from rbee_worker.ops.cuda.kernels.attention.shapes import Tiles, decode_tiles, prefill_tiles
from rbee_worker.ops.cuda.kernels.attention.write import split_rope_write
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from tests.ops.cuda.attention.cases import DEVICE

L2 = 2 * 50 << 20  # bytes to rotate over
BLOCK = 16
SHORT = [Tiles(16, 32, s, 1, 0, w) for s in (8, 16) for w in (2, 4)]
SHORT += [Tiles(16, 16, 16, 1, 0, w) for w in (1, 2)] + [Tiles(16, 32, 8, 2, 0, 2)]
SHORT += [Tiles(16, 64, 16, 1, 1, 4), Tiles(16, 128, 16, 1, 1, 8), Tiles(16, 256, 8, 1, 1, 8)]
LONG = [Tiles(16, n, s, 1, 0, w) for s in (16, 32) for n, w in ((32, 2), (64, 4), (128, 8))]
LONG += [Tiles(16, 64, 64, 1, 0, 4), Tiles(16, 64, 32, 1, 3, 4), Tiles(16, 128, 16, 1, 2, 4)]
WIDE = [Tiles(16, n, s, 2, 0, w) for s in (1, 2) for n, w in ((16, 1), (32, 2), (64, 4))]
WIDE += [Tiles(16, 32, 1, 2, g, w) for g, w in ((2, 2), (3, 2), (4, 2), (3, 4), (1, 2))]
WIDE += [Tiles(16, 64, s, 2, 3, 4) for s in (1, 2, 4)]
NARROW = WIDE[1:3] + WIDE[-3:]
LATENT = [
    Tiles(m, n, s, 1, g, w)
    for m, n, s, g, w in (
        (16, 32, 16, 2, 4),
        (16, 32, 32, 2, 8),
        (64, 32, 16, 2, 8),
        (64, 32, 32, 2, 8),
        (64, 16, 32, 2, 8),
    )
]
PREFILL = [
    Tiles(m, n, 1, 1, g, w)
    for m, n, g, w in (
        (128, 64, 3, 8),
        (128, 64, 2, 8),
        (128, 128, 2, 8),
        (64, 64, 3, 4),
        (64, 128, 2, 4),
        (64, 32, 4, 4),
    )
]
PREFILL += [Tiles(128, 64, s, 4, 3, 8) for s in (2, 4)]


@dataclass
class Model:
    """Heads of one layer; values: latent attention."""

    heads: int = 32
    kv_heads: int = 8
    k_dim: int = 128
    v_dim: int = 128
    values: int | None = None
    held: torch.dtype = torch.bfloat16

    @property
    def key_bytes(self) -> int:
        """Bytes of a position's key and value in one layer."""
        stored = self.k_dim + (0 if self.values else self.v_dim)
        return self.kv_heads * stored * self.held.itemsize


@dataclass
class Step:
    """A step of `rows` new tokens in each sequence of `keys` keys, for as many layers as L2 needs.

    bound: what the launch is told of the keys, as a captured graph's.
    """

    model: Model
    rows: list[int]
    keys: list[int]
    bound: int
    layers: int = 0
    workspace: Workspace = field(default_factory=lambda: Workspace(DEVICE))

    def __post_init__(self) -> None:
        model, batch = self.model, len(self.rows)
        self.bytes = sum(self.keys) * model.key_bytes
        self.layers = self.layers or max(4, -(-L2 // self.bytes))
        columns = -(-self.bound // BLOCK)
        used = [-(-n // BLOCK) for n in self.keys]
        total = self.layers * sum(used) + 1
        shape = (total, model.kv_heads, BLOCK)
        self.k = self._random(*shape, model.k_dim).to(model.held).transpose(1, 2)
        self.v = self._random(*shape, model.v_dim).to(model.held).transpose(1, 2)
        order = (torch.randperm(total - 1) + 1).to(torch.int32)
        self.tables = torch.zeros(self.layers, batch, columns, dtype=torch.int32)
        at = 0
        for layer in range(self.layers):
            for b, count in enumerate(used):
                self.tables[layer, b, :count] = order[at : at + count]
                at += count
        slots = torch.tensor([n - 1 for n in self.keys])
        block = self.tables[:, torch.arange(batch), slots // BLOCK].long()
        self.slots = (block * BLOCK + slots % BLOCK).to(DEVICE)
        self.tables = self.tables.to(DEVICE)
        starts = [sum(self.rows[:b]) for b in range(batch + 1)]
        self.starts = torch.tensor(starts, device=DEVICE)
        self.lens = torch.tensor(self.keys, device=DEVICE)
        at_rows = [n - r + i for r, n in zip(self.rows, self.keys, strict=True) for i in range(r)]
        self.positions = torch.tensor(at_rows, device=DEVICE)
        count = starts[-1]
        width = model.heads * model.k_dim + model.kv_heads * (model.k_dim + model.v_dim)
        self.qkv = self._random(count, width).bfloat16()
        self.q = self._random(count, model.heads * model.k_dim).bfloat16()
        self.angles = self._random(count, model.k_dim)

    @staticmethod
    def _random(*shape: int) -> Tensor:
        return torch.empty(shape, device=DEVICE).normal_()

    def decode(self, tiles: Tiles | None) -> None:
        """`attend_decode` for every layer."""
        model = self.model
        for layer in range(self.layers):
            attend_decode(
                self.qkv, self.k, self.v, self.tables[layer], self.lens, self.slots[layer],
                self.angles, workspace=self.workspace, longest_keys=self.bound, heads=model.heads,
                kv_heads=model.kv_heads, k_dim=model.k_dim, rope_dim=model.k_dim,
                scale=model.k_dim**-0.5, pdl=True, tiles=tiles,
            )  # fmt: skip

    def attend(self, tiles: Tiles | None, *, pdl: bool = True) -> None:
        """`attend` for every layer."""
        model = self.model
        several = max(self.rows) > 1
        for layer in range(self.layers):
            attend(
                self.q, self.k, self.v, self.tables[layer], self.starts, self.lens, self.positions,
                workspace=self.workspace, longest_rows=max(self.rows), longest_keys=self.bound,
                heads=model.heads, scale=model.k_dim**-0.5, values=model.values, pdl=pdl,
                single=None if several else tiles, several=tiles if several else None,
            )  # fmt: skip

    def split(self, _: Tiles | None) -> None:
        """`split_rope_write` for every layer."""
        model = self.model
        slots = torch.arange(len(self.positions), device=DEVICE) % (len(self.k) * BLOCK)
        for _layer in range(self.layers):
            split_rope_write(
                self.qkv, self.k, self.v, slots, self.angles, heads=model.heads,
                rope_dim=model.k_dim, pdl=True,
            )  # fmt: skip

    @property
    def products(self) -> float:
        """Floating point operations of causal attention in one layer."""
        model = self.model
        pairs = sum(
            r * (n - r) + r * (r + 1) / 2 for r, n in zip(self.rows, self.keys, strict=True)
        )
        return 2 * pairs * model.heads * (model.k_dim + (model.values or model.v_dim))


Row = tuple[str, Step, Callable[[Tiles | None], None], list[Tiles], list[Tiles | None], float]


def rows(rate: float, flops: float) -> Iterator[Callable[[], Row]]:
    """What is timed: name, step, launches, tiles to try, the tiles chosen (and as for a batch of
    one), floor in seconds."""
    llama = Model()
    f8 = Model(held=torch.float8_e4m3fn)
    latent = Model(128, 1, 576, 512, values=512)

    def decode(
        name: str, model: Model, batch: int, keys: int, bound: int, sweep: list[Tiles]
    ) -> Row:
        step = Step(model, [1] * batch, [keys] * batch, bound)
        chosen: list[Tiles | None] = [
            decode_tiles(
                batch=rows, kv_heads=model.kv_heads, group=model.heads // model.kv_heads,
                dims=model.k_dim + (0 if model.values else model.v_dim), element=2,
                longest_keys=bound,
            )
            for rows in (batch, 1)
        ]  # fmt: skip
        call = step.attend if model.values else step.decode
        return name, step, call, sweep, chosen, step.bytes / rate

    def several(name: str, lengths: list[int], keys: list[int], model: Model = llama) -> Row:
        step = Step(model, lengths, keys, max(keys), layers=2)
        chosen: list[Tiles | None] = [
            prefill_tiles(
                rows=sum(lengths), longest_rows=max(lengths), kv_heads=model.kv_heads,
                group=model.heads // model.kv_heads, element=2, longest_keys=max(keys),
                dims=model.k_dim + (0 if model.values else model.v_dim), invariant=invariant,
            )
            for invariant in (False, True)
        ]  # fmt: skip
        return name, step, step.attend, PREFILL, chosen, step.products / flops

    def split() -> Row:
        step = Step(llama, [2048], [2048], 2048, layers=8)
        moved = 2 * step.qkv.nbytes / rate
        return "split_rope_write 2048", step, step.split, [], [None], moved

    yield partial(decode, "decode 1 x 256", llama, 1, 256, 4096, SHORT + LONG)
    yield partial(decode, "decode 1 x 1500", llama, 1, 1500, 4096, LONG)
    yield partial(decode, "decode 1 x 4096", llama, 1, 4096, 4096, LONG)
    yield partial(decode, "decode 8 x 256", llama, 8, 256, 4096, SHORT)
    yield partial(decode, "decode 8 x 4096", llama, 8, 4096, 4096, WIDE + LONG)
    yield partial(decode, "decode 64 x 256", llama, 64, 256, 4096, WIDE)
    yield partial(decode, "decode 64 x 2048", llama, 64, 2048, 4096, WIDE)
    yield partial(decode, "decode 64 x 2048 f8", f8, 64, 2048, 4096, NARROW)
    yield partial(decode, "latent 1 x 4096", latent, 1, 4096, 4096, LATENT)
    yield partial(decode, "latent 16 x 4096", latent, 16, 4096, 4096, LATENT)
    yield partial(several, "prefill 1 x 2048", [2048], [2048])
    yield partial(several, "prefill 8 x 2048", [2048] * 8, [2048] * 8)
    yield partial(several, "prefill 512 after 7680", [512], [8192])
    yield partial(several, "8 rows after 4096", [8], [4104])
    yield partial(several, "mixed 512 + 56 x 512", [512] + [1] * 56, [512] * 57)
    yield split


def whole_prompts(flops: float) -> None:
    """The same prompts by torch's attention, to compare."""
    for batch, length in ((1, 2048), (8, 2048)):
        q, k, v = (
            torch.randn(batch, heads, length, 128, device=DEVICE, dtype=torch.bfloat16)
            for heads in (32, 8, 8)
        )
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
            with sdpa_kernel(backend):
                call = partial(
                    scaled_dot_product_attention, q, k, v, is_causal=True, enable_gqa=True
                )
                call()
                took = statistics.median(elapsed(call) for _ in range(10))
            floor = 2 * batch * length * (length + 1) * 32 * 128 / flops
            say(f"{backend.name:18} {batch} x {length}: {took * 1e6:8.1f} us {floor / took:.2f}")


def timed(row: Row, sweep: bool) -> None:
    """Print one line: the chosen tiles' time, the best, and the next best."""
    name, step, call, tried, chosen, floor = row
    times: dict[Tiles | None, float] = {}
    for tiles in dict.fromkeys(chosen + (tried if sweep else [])):
        took = guarded(lambda tiles=tiles: seconds(lambda: call(tiles)))
        if took is not None:
            times[tiles] = took / step.layers
    ranked = sorted(times, key=lambda tiles: times[tiles])
    line = f"{name:22} floor {floor * 1e6:7.1f}"
    for label, tiles in [
        *zip(("chosen", "invariant"), chosen, strict=False),
        *(("best", tiles) for tiles in ranked[:3]),
    ]:
        if tiles in times:
            shape = "" if tiles is None else ",".join(map(str, tiles))
            line += f" | {label} ({shape}) {times[tiles] * 1e6:.1f} us {floor / times[tiles]:.2f}"
    say(line)


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=4.69, help="TB/s that the card reads")
    parser.add_argument("--flops", type=float, default=767.0, help="TFLOP/s of its bf16 products")
    parser.add_argument("--only", default="", help="rows whose name has this text")
    parser.add_argument("--no-sweep", action="store_true", help="only the chosen tiles")
    given = parser.parse_args()
    sweep = not given.no_sweep
    rate, flops = given.rate * 1e12, given.flops * 1e12
    start = time.perf_counter()
    made = [row for row in map(guarded, rows(rate, flops)) if row and given.only in row[0]]
    with compiling():
        guarded(partial(errors, dry=True))
        for _, step, call, tried, chosen, _ in made:
            layers, step.layers = step.layers, 1
            for tiles in dict.fromkeys(chosen + (tried if sweep else [])):
                guarded(partial(call, tiles))
            step.layers = layers
    say(f"compiled after {time.perf_counter() - start:.1f} s")
    guarded(errors)
    say("tiles: BM, BN, splits, min_tiles, stages, warps")
    for row in made:
        timed(row, sweep)
    guarded(partial(whole_prompts, flops))
    say(f"done after {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
