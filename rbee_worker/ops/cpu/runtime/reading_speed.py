"""Measures how fast products run with every way to read their weights (`shared/reading.py`).

On one thread, by its processor time: what other programs do then disturbs least. With so many
threads that they fill the memory bus, ways differ less than with one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rbee_worker.machine import available_memory
from rbee_worker.ops.cpu.runtime.arena import Arena
from rbee_worker.ops.cpu.runtime.native import CALL, Library
from rbee_worker.ops.cpu.shared.forms import BYTES, CELL, TOKENS, parse
from rbee_worker.ops.cpu.shared.held import ROWS
from rbee_worker.ops.cpu.shared.reading import ONE, SEVERAL, Reading
from rbee_worker.ops.cpu.shared.regions import zeros

STACKED = "stacked."  # begins the names of kernels that take several matrices
COLUMNS = 2048  # of a matrix
FEW, GROUPS = 16, 1024  # groups of 16 rows of a matrix, at least and at most
MOST = 1 << 27  # bytes of weights, more than most caches hold
LEAST = 1 << 24
SHARE = 4  # at most one in so many bytes of the free memory
PARTS = 4  # runs before memory is read again, at least
EACH_S = 0.4e-3  # about how long one measurement takes: too short for most interruptions
LEAST_S = 1e-6  # a clock that stood still
ROUNDS = 10  # at most
PATIENCE_S = 0.5  # no round begins later
PAGE = 4096
NORMAL = 0x3C3C3C3C  # a normal number as float32, float16 and bfloat16: arithmetic runs as usual

# (kernel, tokens, reading) -> GB/s of weights
Rate = Callable[[str, int, Reading], float]


def speeds(rate: Rate, kernels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each kernel: GB/s by way to read, with one token (`1:0`) and with several (`4096`).

    A way's rate is its best, because other programs only ever slow it. Rounds end when there were
    enough, or when they have taken too long.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in kernels}
    begun = time.perf_counter()
    for _ in range(ROUNDS):
        for name, rates in found.items():
            for reading in ONE:
                key = reading.with_one
                rates[key] = max(rates.get(key, 0.0), rate(name, 1, reading))
            for reading in SEVERAL:
                key = reading.with_several
                rates[key] = max(rates.get(key, 0.0), rate(name, TOKENS, reading))
        if time.perf_counter() - begun > PATIENCE_S:
            break
    return {
        name: {way: round(1e-9 * value, 2) for way, value in rates.items()}
        for name, rates in found.items()
    }


class Bench:
    """Runs product kernels on memory of its own; `rate` is what `speeds` takes."""

    def __init__(self, library: Library) -> None:
        self._library = library
        size = min(MOST, max(LEAST, available_memory() // SHARE))
        self._weights = Arena(size).take(size)
        self._weights.view(np.uint32)[:: PAGE // 4] = NORMAL  # so that every page has memory
        self._x = zeros(TOKENS * COLUMNS // CELL * max(BYTES.values()))
        self._y = zeros(4 * TOKENS * GROUPS * ROWS)
        self._at = 0  # where the next run reads: what was read last is in a cache
        self._groups: dict[tuple[str, int], int] = {}

    def rate(self, name: str, tokens: int, reading: Reading) -> float:
        """Bytes of weights a second, read from memory."""
        held = parse(name.partition(".")[2])[0]
        group = COLUMNS // held.columns * held.nbytes
        if (name, tokens) not in self._groups:
            most = min(GROUPS, len(self._weights) // PARTS // group)
            few = min(FEW, most)
            fit = few * EACH_S / self._seconds(name, tokens, reading, few, few * group)
            self._groups[name, tokens] = min(max(few, int(fit)), most)
        groups = self._groups[name, tokens]
        return groups * group / self._seconds(name, tokens, reading, groups, groups * group)

    def _seconds(self, name: str, tokens: int, reading: Reading, groups: int, size: int) -> float:
        """How long a product with a matrix of so many groups of rows, `size` bytes, takes."""
        if self._at + size > len(self._weights):
            self._at = 0
        weights = int(self._weights.ctypes.data) + self._at
        self._at += size
        kernel, header = self._library[name], np.array([tokens], np.int64)
        args = kernel.pack(
            x=self._x,
            y=self._y,
            bias=0,
            cols=COLUMNS,
            rows=groups * ROWS,
            stride=groups * ROWS,
            **reading._asdict(),
            **_others(name, weights),
        )
        run, step, at = CALL(kernel.address), header.ctypes.data, args.address
        start = time.thread_time()
        run(at, step, 0, 1)
        return max(time.thread_time() - start, LEAST_S)


def _others(name: str, weights: int) -> dict[str, Any]:
    """The arguments of kernel `name` that the two families do not share."""
    if not name.startswith(STACKED):  # nothing is left for threads to share in pieces
        return {"w": weights, "count": 0, "ticket": 0, "few": 0, "many": 0}
    token = COLUMNS // CELL * BYTES[parse(name.partition(".")[2])[1]]
    no_lists = {"lists": 0, "tokens": 0, "by_token": 0}  # one matrix, which takes all rows
    one = {"w": np.array([weights], np.int64), "members": 1, "x_each": 0, "y_each": 0}
    return {**one, **no_lists, "token": token, "bias_each": 0}
