"""Series of a long run: their slope, and a plot of characters."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

WIDTH, HEIGHT = 76, 8
PAIRS = 20_000  # of points, of which the slope is the median
Series = Sequence[tuple[float, float]]


def slope(series: Series) -> float:
    """Units a second: the median of the slopes between pairs of points (Theil and Sen), which a few
    peaks do not move."""
    if len(series) < 3:
        return 0.0
    dice = random.Random(0)
    pairs = (sorted(dice.sample(range(len(series)), 2)) for _ in range(PAIRS))
    found = [
        (series[b][1] - series[a][1]) / (series[b][0] - series[a][0])
        for a, b in pairs
        if series[b][0] > series[a][0]
    ]
    return statistics.median(found)


def plot(title: str, series: Series) -> str:
    """A series over time, the highest value of each column."""
    if not series:
        return f"{title}: nothing"
    last = series[-1][0] or 1.0
    columns: list[list[float]] = [[] for _ in range(WIDTH)]
    for at, value in series:
        columns[min(int(at / last * WIDTH), WIDTH - 1)].append(value)
    values = [value for _, value in series]
    low, high = min(values), max(values)
    step = (high - low) / HEIGHT or 1.0
    lines = [f"{title}: {low:.4g} to {high:.4g} in {last / 60:.1f} minutes"]
    for row in range(HEIGHT, 0, -1):
        edge = low + (row - 1) * step
        cells = ("#" if column and max(column) >= edge else " " for column in columns)
        lines.append(f"{edge:>9.4g} |{''.join(cells)}")
    return "\n".join(lines)
