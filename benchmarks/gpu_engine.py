"""What a whole engine keeps of its promises on a GPU: one table for each name that is given.

same: --deterministic, bit for bit. cost: what that costs. drawn: penalties. gaps: the idle time
between decoding steps. long: a prompt of 128k tokens. attention: flash against materialised scores.
dtypes: bf16 against float32. families: fusions and share of the floor of every family, or of --only
some; compile: run these once, so that their kernels are there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.family_shapes import FAMILIES, config_of
from benchmarks.gpu import Driver
from benchmarks.gpu_graphs import guarded, say, seconds
from rbee_worker.config import Settings
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import Finished, PromptScores, Stats, Submit, Tokens
from rbee_worker.loading.load import load_engine
from rbee_worker.model_info import ModelInfo
from rbee_worker.types import SamplingParams

BIG, SMALL = "llama-8b", "llama-1b"
DRAWN = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1}


def engine_of(shape: str, **changes: Any) -> tuple[Engine, ModelInfo]:
    """An engine with random weights."""
    settings = {
        "model": f"random:{changes.pop('format', 'bf16')}:{shape}",
        "backend": "cuda",
        "ctx": 4096,
        "kv_tokens": 65536,
        "token_budget": 8192,
        "max_seqs": 64,
        "prefix_cache": False,
    }
    return load_engine(Settings(**{**settings, **changes}), lambda _: None)


def config_path(family: str) -> str:
    """A config.json of a family with 300 million parameters."""
    path = Path(tempfile.gettempdir()) / f"{family}.json"
    path.write_text(json.dumps(config_of(family, 300_000_000)))
    return str(path)


def medians(measure: Callable[[], float], repeats: int = 3) -> float:
    """The median of some runs after one that compiles and captures."""
    measure()
    return statistics.median(measure() for _ in range(repeats))


# ---- deterministic


def scored(engine: Engine, waves: Sequence[Sequence[int]]) -> dict[str, list[float]]:
    """Log-probabilities of prompts and answers, each wave after the one before."""
    found: dict[str, list[float]] = {}
    for wave in waves:
        for n in wave:
            ids = tuple((7919 * n + 31 * i) % 1000 for i in range(40 + 37 * n))
            params = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True, logprobs=0)
            engine.submit(Submit(seq=f"{n}", prompt_ids=ids, params=params, prompt_logprobs=True))
        while not engine.idle:
            for output in engine.step():
                if isinstance(output, (Tokens, PromptScores)):
                    some = [one.logprob for one in output.logprobs or () if one is not None]
                    found.setdefault(output.seq, []).extend(some)
                elif isinstance(output, Finished) and output.error is not None:
                    raise SystemExit(f"a request failed: {output.error}")
    return found


def same() -> None:
    """Sequences alone, together, and with prompts in parts of 96 tokens: numbers that differ."""
    shapes = (SMALL, *(config_path(name) for name in ("qwen3_moe", "gemma2", "mamba2", "lfm2")))
    for shape in shapes:
        for deterministic in (True, False):

            def compared(shape: str = shape, deterministic: bool = deterministic) -> None:
                whole, _ = engine_of(shape, deterministic=deterministic)
                parts, _ = engine_of(shape, deterministic=deterministic, token_budget=96)
                alone = scored(whole, [[n] for n in range(12)])
                total = sum(map(len, alone.values()))
                told = []
                for engine in (whole, parts):
                    other = scored(engine, [range(12)])
                    differ = sum(
                        a != b for n in alone for a, b in zip(alone[n], other[n], strict=True)
                    )
                    told.append(f"{differ}")
                name = "deterministic" if deterministic else "default"
                say(f"{Path(shape).stem:<12} {name:<14} of {total}: {' / '.join(told)} differ")

            guarded(compared, shape)


def cost() -> None:
    """Tokens a second of the large shape, with and without --deterministic."""
    for deterministic in (False, True):
        engine, info = engine_of(BIG, deterministic=deterministic)
        driver = Driver(engine, info.vocab_size)
        say(f"deterministic {deterministic}: loaded {info.load_s}")
        for name, run in (
            ("decode 1", lambda d=driver: d.decode(1)),
            ("decode 8", lambda d=driver: d.decode(8)),
            ("decode 64", lambda d=driver: d.decode(64)),
            ("prefill 1 x 2048", lambda d=driver: d.prefill(1, 2048)),
        ):
            value = guarded(lambda run=run: medians(run, 2), name)
            say(f"  {name:<18} {value or 0:10,.1f} tok/s")
        if not deterministic:
            drawn(driver)
            gaps(driver)
            figures(engine, driver)


# ---- penalties


def drawn(driver: Driver) -> None:
    """64 sequences with penalties against greedy ones, and the share of the sampling kernels."""
    plain = medians(lambda: driver.decode(64))
    edited = medians(lambda: driver.decode(64, **DRAWN))
    counted = medians(lambda: driver.decode(64, presence_penalty=0.5, repeat_last_n=64, **DRAWN))
    say(f"greedy {plain:,.0f}, drawn with penalties {edited:,.0f}, with all {counted:,.0f} tok/s")
    traced = events(lambda: driver.decode(64, **DRAWN))
    parts = ("_apply", "_undo", "_push", "_candidates", "_decide", "_narrow", "_sums", "_pick")
    for part in parts:
        some = [end - start for name, start, end in traced if name == part]
        if some:
            say(f"  {part:<12} {len(some):>5} x {statistics.mean(some) / 1e3:6.1f} us")
    total = sum(end - start for name, start, end in traced if name in parts)
    span = traced[-1][2] - traced[0][1]
    say(f"  sampling kernels: {total / span:.2%} of the time")


# ---- idle time


def events(measure: Callable[[], object]) -> list[tuple[str, int, int]]:
    """Name, start and end in nanoseconds of everything that the GPU did, by its start."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as made:
        measure()
        torch.cuda.synchronize()
    results = made.profiler.kineto_results.events()
    found = [
        (e.name(), e.start_ns(), e.start_ns() + e.duration_ns())
        for e in results
        if "CUDA" in str(e.device_type()) and e.duration_ns() > 0
    ]
    return sorted(found, key=lambda one: one[1])


def gaps(driver: Driver) -> None:
    """The time of each decoding step in which nothing runs, and the longest gap in it."""
    for count in (1, 64):
        traced = events(lambda count=count: driver.decode(count))
        idle: list[int] = []
        longest: list[int] = []
        busy_to = traced[0][2]
        for name, start, end in traced:
            gap = max(start - busy_to, 0)
            if name == "_embed":  # a step begins
                idle.append(0)
                longest.append(0)
            if idle:
                idle[-1] += gap
                longest[-1] = max(longest[-1], gap)
            busy_to = max(busy_to, end)
        idle, longest = idle[20:-4], longest[20:-4]
        say(
            f"idle in a step of {count}: median {statistics.median(idle) / 1e3:.1f} us of "
            f"{len(idle)} steps, its longest gap {statistics.median(longest) / 1e3:.1f} us, "
            f"highest {max(longest) / 1e3:.0f} us"
        )


def figures(engine: Engine, driver: Driver) -> None:
    """What the gauges say while 8 sequences decode."""
    told: list[Stats] = []
    for _ in range(8):
        driver.submit(128, 400)
    while not engine.idle:
        told += [output for output in engine.step() if isinstance(output, Stats)]
    last = told[len(told) // 2]
    say(
        f"gauges: utilisation {last.utilisation:.3f}, floor {last.floor_share:.3f}, memory "
        f"{last.device_used_bytes / 1e9:.1f} used, {last.device_own_bytes / 1e9:.1f} own of "
        f"{last.device_total_bytes / 1e9:.1f} GB"
    )


# ---- long prompts, attention, dtypes


def long() -> None:
    """A prompt of 128k tokens in parts of 4,096: speed and memory as it goes on."""
    engine, info = engine_of(SMALL, ctx=131072, kv_tokens=131072, token_budget=4096, max_seqs=1)
    driver = Driver(engine, info.vocab_size)
    driver.prefill(1, 4096)
    torch.cuda.reset_peak_memory_stats()
    driver.submit(131000, 8)
    start, steps = time.perf_counter(), 0
    while not engine.idle:
        engine.step()
        steps += 1
        if steps % 8 == 0:
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() / 1e9
            took = time.perf_counter() - start
            say(f"  {steps * 4096:>7} tokens after {took:6.2f} s, {peak:.3f} GB")


def attention() -> None:
    """A layer of the large shape, 8,192 tokens: our kernel and cuDNN against all scores at once."""
    from rbee_worker.ops.cuda.kernels.attention import attend, attend_prompts
    from rbee_worker.ops.cuda.kernels.workspace import Workspace

    n, heads, kv_heads, dim = 8192, 32, 8, 128
    q, k, v = (torch.randn(n, h * dim, device="cuda", dtype=torch.bfloat16) for h in (heads, 8, 8))
    pages = [x.view(n // 16, 16, kv_heads, dim) for x in (k, v)]
    ints = {"dtype": torch.int32, "device": "cuda"}
    table = torch.arange(n // 16, **ints)[None]  # type: ignore[call-overload]
    starts = torch.tensor([0, n], device="cuda")
    lens, positions = torch.tensor([n], device="cuda"), torch.arange(n, device="cuda")
    workspace = Workspace("cuda")

    def ours() -> torch.Tensor:
        return attend(
            q, *pages, table, starts, lens, positions, workspace=workspace, longest_rows=n,
            longest_keys=n, heads=heads, scale=dim**-0.5,
        )  # fmt: skip

    def theirs() -> torch.Tensor:
        return attend_prompts(q, k, v, [n], heads=heads, scale=dim**-0.5)

    def materialised() -> torch.Tensor:
        qs, ks, vs = (x.view(n, -1, dim).transpose(0, 1) for x in (q, k, v))
        mask = torch.full((n, n), float("-inf"), device="cuda").triu(1)
        out = []
        for h in range(heads):
            scores = (qs[h] @ ks[h // 4].T).float() * dim**-0.5 + mask
            out.append(torch.softmax(scores, 1).to(q.dtype) @ vs[h // 4])
        return torch.stack(out, 1).flatten(1)

    whole = materialised()
    base = seconds(materialised, 3)
    for name, run in (("our kernel", ours), ("cuDNN", theirs)):
        error = (run().float() - whole.float()).abs().max().item()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        more = (torch.cuda.max_memory_allocated() - before) / 1e6
        time_s = seconds(run, 5)
        say(
            f"{name:<12} {time_s * 1e6:8.0f} us, materialised {base * 1e6:8.0f} us: "
            f"{base / time_s:.1f} times; {more:.0f} MB beside its operands; differs by {error:.1e}"
        )


def dtypes() -> None:
    """Decoding in bf16 and in float32."""
    found = {}
    for dtype in ("bf16", "f32"):
        engine, info = engine_of(SMALL, dtype=dtype)
        driver = Driver(engine, info.vocab_size)
        found[dtype] = [medians(lambda n=n, d=driver: d.decode(n), 2) for n in (1, 8)]
        rates = " / ".join(f"{rate:,.0f}" for rate in found[dtype])
        say(f"{dtype}: {rates} tok/s, {info.weight_bytes:,} bytes of weights")
        del engine, driver
        torch.cuda.empty_cache()
    say("bf16 : f32 = " + " / ".join(f"{a / b:.2f}" for a, b in zip(*found.values(), strict=True)))


# ---- families


def families(names: Sequence[str] = (), *, compile_only: bool = False) -> None:
    """Families at 300 million random weights: fusions, operations of torch, share of the floor."""
    from rbee_worker.ops.cuda.device_ops import NATIVE
    from rbee_worker.ops.cuda.model import CudaModel

    ours = {*NATIVE, "product", "attend_packed", "each", "norm_and", "routed", "split"}
    ours |= {"product_conv", "product_scan"}
    for family in names or FAMILIES:

        def measured(family: str = family) -> None:
            engine, info = engine_of(config_path(family), max_seqs=1, kv_tokens=4096, ctx=2048)
            model: Any = engine.runner._model
            assert isinstance(model, CudaModel)
            driver = Driver(engine, info.vocab_size)
            driver.decode(1)
            if compile_only:
                return
            rate = driver.decode(1)
            gauge: Any = engine._figures.gauge
            share = gauge.floor_s([256]) * rate
            counts = ", ".join(f"{n} {c}" for n, c in model.fused.items() if c)
            others = sorted({n.op for n in model._whole.plain.graph.nodes} - ours)
            say(f"{family:<16} {rate:7.0f} tok/s, floor {share:4.2f} | {counts} | {others}")

        guarded(measured, family)
        torch.cuda.empty_cache()


def compile_families(names: Sequence[str] = ()) -> None:
    """Run them, so that their kernels are there: several processes may do so at a time."""
    families(names, compile_only=True)


TABLES: dict[str, Callable[..., None]] = {
    "same": same,
    "cost": cost,
    "long": long,
    "attention": attention,
    "dtypes": dtypes,
    "families": families,
    "compile": compile_families,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", choices=TABLES)
    parser.add_argument("--only", nargs="*", default=[], help="families")
    asked = parser.parse_args()
    for name in asked.tables:
        began = time.perf_counter()
        given = [asked.only] if name in ("families", "compile") else []
        guarded(partial(TABLES[name], *given), name)
        torch.cuda.empty_cache()
        say(f"-- {name}: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
