"""Decoding of every family at about 300 million parameters, against a Llama of the same size.

    python -m benchmarks.families [--only NAME] [--rounds 3] [--format bf16] [--threads N] [--write]

Weights are random (`models/random.py`), shapes those of `family_shapes.py`. What is compared is the
share of the memory's bandwidth: bytes of weights and cache that a token reads (of experts only the
chosen ones), times tokens a second. A family must reach 80 % of Llama's, measured in turns.
Prints one JSON object; --write puts the table into docs/performance.md. With --cpu-time one thread
runs and processor time counts: all that can be compared while others use the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import document
from benchmarks.family_shapes import FAMILIES, YARDSTICK, config_of
from benchmarks.side_by_side import once
from rbee_worker.machine import allowed_cores

HERE = Path(__file__).parent
BOUND = 0.8  # of Llama's share


def summary(
    name: str, runs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]
) -> dict[str, Any]:
    """A family's figures from pairs of (its run, Llama's run): medians."""
    ratios = [ours["gb_s"] / llama["gb_s"] for ours, llama in runs]
    first = runs[0][0]
    return {
        "family": name,
        "parameters": first["parameters"],
        "token_bytes": first["token_bytes"],
        "decode_tok_s": statistics.median(ours["decode_tok_s"] for ours, _ in runs),
        "gb_s": round(statistics.median(ours["gb_s"] for ours, _ in runs), 2),
        "of_llama": round(statistics.median(ratios), 3),
        "samples": [round(r, 3) for r in ratios],
    }


def tables(results: Sequence[Mapping[str, Any]], conditions: str) -> list[str]:
    """The block of docs/performance.md."""
    rows = [
        [
            f"`{one['family']}`",
            f"{one['parameters'] / 1e6:,.0f}",
            f"{one['token_bytes'] / 1e6:,.0f}",
            f"{one['decode_tok_s']:.0f}",
            f"{one['gb_s']:.1f}",
            f"**{100 * one['of_llama']:.0f} %**",
            ", ".join(f"{100 * s:.0f}" for s in one["samples"]),
        ]
        for one in sorted(results, key=lambda one: one["of_llama"])
    ]
    head = ("family", "million parameters", "MB a token", "tok/s", "GB/s", "of Llama's", "all, %")
    return [
        conditions,
        f"At least {100 * BOUND:.0f} % of what Llama reads in a second must be reached.",
        "",
        *document.table(head, rows),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="families whose name contains this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=allowed_cores())
    parser.add_argument("--format", default="bf16", help="of the matrices: bf16, q8_0, ...")
    parser.add_argument("--size", type=float, default=300, help="million parameters, about")
    parser.add_argument("--steps", type=int, default=48, help="tokens decoded a sample")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    asked = parser.parse_args()
    chosen = [name for name in FAMILIES if asked.only in name]
    if not chosen:
        parser.error(f"--only {asked.only}: none of {', '.join(FAMILIES)}")
    threads, clock = (1, "cpu") if asked.cpu_time else (asked.threads, "wall")
    results = []
    with tempfile.TemporaryDirectory() as folder:

        def run(name: str) -> dict[str, Any]:
            path = Path(folder) / f"{name}.json"
            path.write_text(json.dumps(config_of(name, int(asked.size * 1e6))))
            program = [sys.executable, str(HERE / "family_ours.py"), str(path), asked.format]
            return once([*program, str(threads), str(asked.steps), clock])

        for name in chosen:
            results.append(
                summary(name, [(run(name), run(YARDSTICK)) for _ in range(asked.rounds)])
            )
            last = results[-1]
            sys.stderr.write(f"{name}: {last['gb_s']} GB/s, {last['of_llama']:.2f} of Llama's\n")
    conditions = document.conditions(threads=threads)
    sys.stdout.write(
        json.dumps({"conditions": conditions, "format": asked.format, "results": results}) + "\n"
    )
    if asked.write:
        document.write("bench-families", tables(results, f"{conditions} {asked.format}."))


if __name__ == "__main__":
    main()
