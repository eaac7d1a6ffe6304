"""Peak memory while weights are repacked and while an engine runs; how fast repacking is.

    python -m benchmarks.memory [--models FOLDER] [--only NAME] [--threads N] [--rounds 3] [--write]

A fresh process loads each file; this one reads /proc/PID/status every millisecond. RssFile, which
counts pages of the mapped model file and of libraries that the system may drop at any time, is told
apart from RssAnon + RssShmem, which is what the process takes. Bounds: while repacking, at most 0.2
of the weights beside the weights; 2 GB of held weights a second with two cores; the engine at most
weights + cache + 500 MB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import document, models
from rbee_worker.machine import allowed_cores

HERE = Path(__file__).parent
FILES = ("1b-Q4_0.gguf", "1b-Q8_0.gguf", "1b-Q4_K_M.gguf", "1b-Q6_K.gguf", "smol-bf16")
EXTRA, RATE, WORKSPACE = 0.2, 2.0, 500e6  # of the weights; GB/s; bytes
SAMPLE_S = 0.001


@dataclass
class Peaks:
    """Bytes at most since the last `restart`."""

    own: int = 0  # anonymous and shared memory
    file: int = 0  # mapped files

    def see(self, own: int, file: int) -> None:
        self.own, self.file = max(self.own, own), max(self.file, file)

    def restart(self, own: int, file: int) -> None:
        self.own, self.file = own, file


def memory_of(pid: int, proc: Path = Path("/proc")) -> tuple[int, int]:
    """(RssAnon + RssShmem, RssFile) of a process, bytes."""
    found = {}
    for line in (proc / str(pid) / "status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.startswith("Rss"):
            found[name] = int(rest.split()[0]) * 1024
    return found["RssAnon"] + found["RssShmem"], found["RssFile"]


def watch(command: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Run a program that announces its stages (memory_ours.py): stage -> what it said, with the
    peaks from its announcement to the next. Raises SystemExit where it fails."""
    stages: dict[str, dict[str, Any]] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        peaks, over = Peaks(), threading.Event()
        sampler = threading.Thread(target=_sample, args=(run.pid, peaks, over), daemon=True)
        sampler.start()
        now: dict[str, Any] = {}
        for line in run.stdout:
            if not line.startswith("{"):
                continue
            own, file = memory_of(run.pid)
            peaks.see(own, file)
            now |= {"peak": peaks.own, "peak_file": peaks.file}  # of the stage that ended
            now = {**json.loads(line), "own": own, "file": file}
            stages[now["stage"]] = now
            peaks.restart(own, file)
            run.stdin.write("\n")
            run.stdin.flush()
        over.set()
        sampler.join()
    if run.returncode != 0 or "end" not in stages:
        raise SystemExit(f"{' '.join(command)}: failed (exit status {run.returncode})")
    return stages


def _sample(pid: int, peaks: Peaks, over: threading.Event) -> None:
    while not over.is_set():
        try:
            peaks.see(*memory_of(pid))
        except (OSError, KeyError):  # it is gone
            return
        time.sleep(SAMPLE_S)


def repacking(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Bytes and GB/s of a file's repacking; memory is the worst run's, the rate the median."""
    first = runs[0]["repacking"]
    weights = first["weights"]
    extra = max(r["repacking"]["peak"] - r["repacking"]["own"] - weights for r in runs)
    return {
        "weights": weights,
        "extra": extra,
        "extra_share": round(extra / weights, 3),
        "left": max(r["held"]["own"] - r["repacking"]["own"] - weights for r in runs),
        "file_pages": max(r["repacking"]["peak_file"] - r["repacking"]["file"] for r in runs),
        "gb_s": round(statistics.median(weights / 1e9 / r["held"]["seconds"] for r in runs), 2),
    }


def whole(run: Mapping[str, Any]) -> dict[str, float]:
    """Bytes of a whole engine, and what is beside its weights and cache at most."""
    peak = max(stage.get("peak", 0) for stage in run.values())
    loaded = run["loaded"]
    return {
        "peak": peak,
        "peak_file": max(stage.get("peak_file", 0) for stage in run.values()),
        "kv": loaded["kv_bytes"],
        "beside": peak - loaded["weights"] - loaded["kv_bytes"],
    }


def tables(results: Sequence[Mapping[str, Any]], conditions: str) -> list[str]:
    """The block of docs/performance.md."""
    mb: Callable[[float], str] = lambda n: f"{n / 1e6:,.0f}"  # noqa: E731
    rows = []
    for one in results:
        r, e = one["repacking"], one["engine"]
        rows.append(
            [
                one["file"],
                mb(r["weights"]),
                f"{mb(r['extra'])} = **{r['extra_share']:.2f}** ({EXTRA:g})",
                mb(r["file_pages"]),
                f"**{r['gb_s']:.2f}** ({RATE:g})",
                f"{mb(e['peak'])} = weights + cache + **{mb(e['beside'])}** ({mb(WORKSPACE)})",
                mb(e["peak_file"]),
            ]
        )
    head = (
        *("file", "weights held", "beside them while repacking", "file pages"),
        *("repacking, GB/s", "whole engine, peak", "its file pages"),
    )
    words = "MB of 10^6 bytes; in brackets what must be reached."
    return [conditions, words, "", *document.table(head, rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("build/bench"))
    parser.add_argument("--source", type=Path, help="SmolLM2's Q4_1 file, else it is fetched")
    parser.add_argument("--only", default="", help="files whose name contains this")
    parser.add_argument("--threads", type=int, default=allowed_cores())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    asked = parser.parse_args()
    results = []
    for name in [f for f in FILES if asked.only in f]:
        path = models.make(asked.models, name, asked.source)
        _into_page_cache(path)
        command = [sys.executable, str(HERE / "memory_ours.py"), str(path)]
        runs = [watch([*command, "repack", str(asked.threads)]) for _ in range(asked.rounds)]
        engine = watch([*command, "engine", str(asked.threads)])
        results.append({"file": name, "repacking": repacking(runs), "engine": whole(engine)})
    conditions = document.conditions(threads=asked.threads)
    sys.stdout.write(json.dumps({"conditions": conditions, "results": results}) + "\n")
    if asked.write:
        document.write("bench-memory", tables(results, conditions))


def _into_page_cache(path: Path) -> None:
    """Read a model once, so that the disk is not what is measured."""
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        with file.open("rb") as data:
            while data.read(1 << 24):
                pass


if __name__ == "__main__":
    main()
