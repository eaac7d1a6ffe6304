"""The CPU backend against llama.cpp, in alternating runs of one process each.

    python benchmarks/cpu.py MODEL.gguf [--threads 2] [--rounds 5] [--peer-python PYTHON]

Prints one JSON line with every sample and the median of the per-round ratios. `--peer-python` is
an interpreter with llama-cpp-python (in an environment of its own).
With --cpu-time both sides run one thread and count processor time instead of wall time: the only
thing worth comparing on a machine whose cores are taken by others.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
ROWS = ("prefill_512", "decode", "decode_at_512", "decode_8")


def once(command: list[str]) -> dict[str, float]:
    """One engine's numbers, tokens a second, from the last line of its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise SystemExit(f"{command[1]} failed: {reason[0]}")
    numbers: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", default="")
    parser.add_argument("--peer-plain", action="store_true", help="peer without repacked weights")
    parser.add_argument("--cpu-time", action="store_true")
    asked = parser.parse_args()
    threads = 1 if asked.cpu_time else asked.threads
    tail = [asked.model, str(threads), "cpu" if asked.cpu_time else "wall"]
    ours = [sys.executable, str(HERE / "cpu_ours.py"), *tail]
    plain = ["plain"] if asked.peer_plain else []
    peer = [asked.peer_python, str(HERE / "cpu_llamacpp.py"), *tail, *plain]
    rounds = []
    for _ in range(asked.rounds):
        round_ = {"ours": once(ours)}
        if asked.peer_python:
            round_["peer"] = once(peer)
        rounds.append(round_)
    report = {
        "model": Path(asked.model).name,
        "machine": platform.processor() or platform.machine(),
        "threads": threads,
        "clock": tail[2],
        "versions": {p: version(p) for p in ("llvmlite", "torch")},
        "rounds": rounds,
        "median": {row: _median(rounds, "ours", row) for row in ROWS},
    }
    if asked.peer_python:
        report["peer_median"] = {row: _median(rounds, "peer", row) for row in ROWS}
        report["ratio"] = {
            row: round(statistics.median(r["ours"][row] / r["peer"][row] for r in rounds), 2)
            for row in ROWS
        }
    sys.stdout.write(json.dumps(report) + "\n")


def _median(rounds: list[dict[str, dict[str, float]]], engine: str, row: str) -> float:
    return round(statistics.median(r[engine][row] for r in rounds), 1)


if __name__ == "__main__":
    main()
