"""Two programs in turns, and what may be said of them: for every benchmark that has a peer.

A shared machine has slow phases: programs run A B A B, a pair whose peer fell below half of its
best is left out, and the median of the pairs' ratios is what counts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Numbers = Mapping[str, float]  # row -> tokens a second, or whatever the row counts

# llama.cpp is at its best with pinned threads.
PINNED = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
FALLEN = 0.5  # of the peer's best: slower than that, the machine was doing something else


@dataclass(frozen=True)
class Pair:
    """One run of ours and the peer's run right after it."""

    ours: Numbers
    peer: Numbers


def once(command: Sequence[str], environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a program prints as JSON on its last line. Raises SystemExit where it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **(environ or {})}
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise SystemExit(f"{' '.join(command[:3])}: failed: {reason}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def alternate(ours: Sequence[str], peer: Sequence[str], rounds: int) -> list[Pair]:
    """`rounds` pairs of runs; without a peer's command, the peer's numbers are empty."""
    return [Pair(once(ours), once(peer, PINNED) if peer else {}) for _ in range(rounds)]


def kept(pairs: Sequence[Pair], row: str) -> list[Pair]:
    """The pairs that count for a row."""
    both = [p for p in pairs if row in p.ours and row in p.peer]
    best = max((p.peer[row] for p in both), default=0.0)
    return [p for p in both if p.peer[row] >= FALLEN * best]


def ratio(pairs: Sequence[Pair], row: str) -> float | None:
    """Median of ours / peer over the pairs that count; None without any."""
    found = [p.ours[row] / p.peer[row] for p in kept(pairs, row)]
    return round(statistics.median(found), 2) if found else None


def median(values: Sequence[float]) -> float | None:
    """Median to three places, None of nothing."""
    return round(statistics.median(values), 3) if values else None
