"""Cost as a ratio: work beside a peer of known size, on the same machine in the same minute.

A bound in seconds says as much about the machine as about the code. What is measured here is
divided by what the interpreter, a library or a process needs there for something comparable.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

ATTEMPTS = 10  # one quiet moment is enough


def cpu_s(run: Callable[[], Any]) -> float:
    """Processor time of one call, in seconds of this process."""
    began = time.process_time()
    run()
    return time.process_time() - began


def wall_s(run: Callable[[], Any]) -> float:
    """Elapsed time of one call, for what another process has a part in."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def interpreter_s() -> float:
    """Processor time of 100,000 rounds of everyday Python: a name, a dictionary, an addition."""

    def rounds() -> None:
        seen: dict[str, int] = {}
        for i in range(100_000):
            word = f"{i % 997}"
            seen[word] = seen.get(word, 0) + len(word)

    return cpu_s(rounds)


def ratio(
    work: Callable[[], float], peer: Callable[[], float], enough: float, attempts: int = ATTEMPTS
) -> float:
    """Least of what `work` returns over the least of `peer`, measured in turn.

    No more attempts are made than it takes to come down to `enough`.
    """
    least_work = least_peer = float("inf")
    for _ in range(attempts):
        least_peer = min(least_peer, peer())
        least_work = min(least_work, work())
        if least_work <= enough * least_peer:
            break
    return least_work / least_peer
