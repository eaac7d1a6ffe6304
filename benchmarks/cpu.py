"""The CPU backend against llama.cpp: every row of the table, in alternating runs of one process.

    python -m benchmarks.cpu --peer-python PYTHON [--models FOLDER] [--rounds 5] [--only NAME]
                             [--write]

Prints one JSON object with every sample; --write puts the tables into docs/performance.md.
`--peer-python` is an interpreter with llama-cpp-python, in an environment of its own
(`make bench-cpu` makes it); without it our side runs alone. Missing model files are made.
With --cpu-time both sides run one thread and count processor time instead of wall time: the only
thing worth comparing on a machine whose cores are taken by others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import document, models
from benchmarks.side_by_side import Pair, alternate, kept, median, once, ratio
from rbee_worker.machine import allowed_cores

HERE = Path(__file__).parent
ROWS = ("prefill_512", "decode", "decode_at_512", "decode_8")
HEAD = ("prefill 512", "decode", "decode at 512", "8 sequences")
# Tokens in the cache while a decoding row runs, on average (cpu_ours.py, `rate`).
CONTEXTS = {"decode": 16 + 32, "decode_at_512": 512 + 16}


@dataclass(frozen=True)
class File:
    """A row of the table. ours, peer: files of `models`; bounds: row -> ratio to reach; bf16: ours
    with --bf16-activations."""

    name: str
    ours: str
    peer: str
    bounds: Mapping[str, float] = field(default_factory=dict)
    bf16: bool = False


def _integer(name: str, file: str, decode: float) -> File:
    return File(name, file, file, {"prefill_512": 2.0, "decode": decode, "decode_8": 2.5})


_FLOATS = {"prefill_512": 1.2, "decode": 1.3}
FILES = (
    _integer("135M Q4_1", "smol-Q4_1.gguf", 2.3),
    _integer("135M Q4_0", "smol-Q4_0.gguf", 2.0),
    _integer("135M Q8_0", "smol-Q8_0.gguf", 1.8),
    File("135M BF16", "smol-bf16", "smol-BF16.gguf", _FLOATS),
    File("135M BF16, activations too", "smol-bf16", "smol-BF16.gguf", _FLOATS, bf16=True),
    _integer("1B Q4_0", "1b-Q4_0.gguf", 1.1),
    _integer("1B Q8_0", "1b-Q8_0.gguf", 1.1),
    _integer("1B Q4_K_M", "1b-Q4_K_M.gguf", 1.1),
    _integer("1B Q6_K", "1b-Q6_K.gguf", 1.1),
)


def share(ours: Mapping[str, float], row: str) -> float:
    """Of the memory's measured rate, what a decoding row reads: weights, and the cache so far."""
    read = ours["token_bytes"] + CONTEXTS[row] * ours["cache_bytes"]
    return read * ours[row] / 1e9 / ours["read_gb_s"]


def summary(file: File, pairs: Sequence[Pair]) -> dict[str, Any]:
    """One file's figures: medians and ratio over the pairs that count, row by row."""
    found: dict[str, Any] = {"file": file.name, "bounds": dict(file.bounds), "rows": {}}
    for row in ROWS:
        good = kept(pairs, row) or list(pairs)
        found["rows"][row] = {
            "ours": median([p.ours[row] for p in good]),
            "peer": median([p.peer[row] for p in good if row in p.peer]),
            "ratio": ratio(pairs, row),
            "left_out": len(pairs) - len(good),
        }
        if row in CONTEXTS:
            shares = [share(p.ours, row) for p in good]
            found["rows"][row]["bandwidth_share"] = median(shares)
    found["samples"] = [asdict(p) for p in pairs]
    return found


def tables(results: Sequence[Mapping[str, Any]], conditions: str) -> list[str]:
    """The block of docs/performance.md."""
    body = []
    for one in results:
        cells = [_cell(one["rows"][row], one["bounds"].get(row)) for row in ROWS]
        shares = [one["rows"][row]["bandwidth_share"] for row in CONTEXTS]
        body.append([one["file"], *cells, " / ".join(f"{100 * s:.0f} %" for s in shares)])
    samples = []
    for one in results:
        for row in ROWS:
            sides = [[p[side].get(row) for p in one["samples"]] for side in ("ours", "peer")]
            texts = [", ".join("-" if v is None else f"{v:g}" for v in side) for side in sides]
            samples.append([f"{one['file']} {row}", *texts])
    return [
        conditions,
        "Tokens a second, ours / llama.cpp = median ratio (what must be reached); last, the share",
        "of the memory's read rate, measured in the same minute, that decoding and decoding at 512",
        "take. Pairs whose peer fell below half of its best are left out.",
        "",
        *document.table(["file", *HEAD, "share of bandwidth"], body),
        "",
        "All samples:",
        "",
        *document.table(["", "ours", "llama.cpp"], samples),
    ]


def _cell(row: Mapping[str, Any], bound: float | None) -> str:
    if row["ratio"] is None:
        return f"{row['ours']:.0f}"
    asked = "-" if bound is None else f"{bound:g}"
    return f"{row['ours']:.0f} / {row['peer']:.0f} = **{row['ratio']:.2f}** ({asked})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("build/bench"))
    parser.add_argument("--source", type=Path, help="SmolLM2's Q4_1 file, else it is fetched")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--threads", type=int, default=allowed_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", default="")
    parser.add_argument("--peer-plain", action="store_true", help="peer without repacked weights")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    asked = parser.parse_args()
    chosen = [f for f in FILES if asked.only in f.name]
    if not chosen:
        parser.error(f"--only {asked.only}: none of {', '.join(f.name for f in FILES)}")
    peer_version = ""
    if asked.peer_python:
        code = "import json, llama_cpp; print(json.dumps({'version': llama_cpp.__version__}))"
        found = once([asked.peer_python, "-c", code])
        peer_version = f"llama-cpp-python {found['version']}"
    threads = 1 if asked.cpu_time else asked.threads
    results = [summary(file, _run(file, asked, threads)) for file in chosen]
    conditions = document.conditions(threads=threads, peer=peer_version)
    sys.stdout.write(json.dumps({"conditions": conditions, "results": results}) + "\n")
    if asked.write:
        document.write("bench-cpu", tables(results, conditions))


def _run(file: File, asked: argparse.Namespace, threads: int) -> list[Pair]:
    paths = [str(models.make(asked.models, f, asked.source)) for f in (file.ours, file.peer)]
    tail = [str(threads), "cpu" if asked.cpu_time else "wall"]
    ours = [sys.executable, str(HERE / "cpu_ours.py"), paths[0], *tail]
    ours += ["bf16"] if file.bf16 else []
    peer = [asked.peer_python, str(HERE / "cpu_llamacpp.py"), paths[1], *tail]
    plain = ["plain"] if asked.peer_plain else []
    sys.stderr.write(f"{file.name}: {asked.rounds} rounds\n")
    return alternate(ours, [*peer, *plain] if asked.peer_python else [], asked.rounds)


if __name__ == "__main__":
    main()
