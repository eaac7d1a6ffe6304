"""From the start of the process to the first token: with no kernel compiled, and with all kept.

    python -m benchmarks.startup [--model REF] [--rounds 3] [--write]

Runs `rbee-worker generate` as a person would, on an empty cache folder and then again on the same
one, and takes the time until the first byte of the answer. The model file is read once before, so
that the disk is not what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import document
from benchmarks.side_by_side import median
from rbee_worker.checkpoint.refs import resolve
from rbee_worker.machine import allowed_cores

COLD, WARM = 10.0, 2.0  # seconds, what must be reached


def first_token_s(model: str, cache_dir: str, options: Sequence[str] = ()) -> float:
    """Seconds from starting the program to the first byte it writes. Raises SystemExit."""
    command = [sys.executable, "-m", "rbee_worker", "generate", "Once upon a time"]
    command += ["--model", model, "--backend", "cpu", "--cache-dir", cache_dir]
    command += ["--max-tokens", "2", "--temperature", "0", *options]
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        first = os.read(running.stdout.fileno(), 1)
        taken = time.perf_counter() - start
        running.stdout.read()
        words = running.stderr.read().decode()
    if running.returncode != 0 or not first:
        raise SystemExit(f"generate failed: {words.strip() or 'it wrote nothing'}")
    return taken


def measured(model: str, rounds: int, options: Sequence[str] = ()) -> dict[str, Any]:
    """Seconds: every sample and the medians. Each round compiles in a new folder."""
    cold, warm = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(round(first_token_s(model, folder, options), 3))
            warm += [round(first_token_s(model, folder, options), 3) for _ in range(2)]
    return {"cold": median(cold), "warm": median(warm), "cold_all": cold, "warm_all": warm}


def tables(name: str, found: Mapping[str, Any], conditions: str) -> list[str]:
    """The block of docs/performance.md."""
    rows = [
        (title, f"**{found[key]:.2f}** ({bound:g})", ", ".join(map(str, found[f"{key}_all"])))
        for key, title, bound in (
            ("cold", "no kernel compiled", COLD),
            ("warm", "all kernels kept", WARM),
        )
    ]
    head = ("kernels", "seconds, median (at most)", "all")
    words = f"{name}, `rbee-worker generate --backend cpu`."
    return [conditions, words, "", *document.table(head, rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    asked = parser.parse_args()
    path = resolve(asked.model)
    if path.is_file():
        path.read_bytes()
    found = measured(str(path), asked.rounds)
    conditions = document.conditions(threads=allowed_cores())
    sys.stdout.write(json.dumps({"conditions": conditions, "model": path.name, **found}) + "\n")
    if asked.write:
        document.write("bench-startup", tables(path.name, found, conditions))


if __name__ == "__main__":
    main()
