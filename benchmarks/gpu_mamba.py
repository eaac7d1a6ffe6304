"""A whole Mamba of 2.8 billion random weights on a GPU: its steps, and the kernels in them.

Part `engine` of `gpu_recurrences.py`.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_engine import Driver, events, medians
from benchmarks.gpu_graphs import guarded, say
from rbee_worker.config import Settings
from rbee_worker.loading.load import load_engine

MAMBA = {  # state-spaces/mamba-2.8b
    "model_type": "mamba", "vocab_size": 50280, "hidden_size": 2560, "num_hidden_layers": 64,
    "state_size": 16, "expand": 2, "conv_kernel": 4, "time_step_rank": 160, "use_bias": False,
    "use_conv_bias": True, "residual_in_fp32": True, "tie_word_embeddings": True,
}  # fmt: skip
SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "time_step_rank": 2}
SCAN = ("_space", "_ends", "_firsts")  # kernels of the scan


def engine(asked: Any, layers: int = 64) -> None:
    """Decoding of 1, 8 and 64 sequences, a prompt of 2,048 tokens, what its scan takes, and the
    kernels of a decoding step."""
    path = Path(tempfile.mkdtemp()) / "config.json"
    path.write_text(
        json.dumps({**MAMBA, "num_hidden_layers": layers, **(SMALL if asked.quick else {})})
    )
    small = {"ctx": 256, "kv_tokens": 1024, "token_budget": 64, "max_seqs": 4}
    large = {"ctx": 4096, "kv_tokens": 65536, "token_budget": 8192, "max_seqs": 64}
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
