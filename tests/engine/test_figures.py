"""Shares of time: in steps, and of decoding steps by the device's gauge."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rbee_worker.engine.figures import Figures
from rbee_worker.engine.scheduler import Plan
from rbee_worker.ops.backend import DeviceMemory


class Gauge:
    """A millisecond of reading for every token of context."""

    def memory(self) -> DeviceMemory:
        return DeviceMemory(used=70, own=50, total=100)

    def floor_s(self, lens: Iterable[int]) -> float:
        return sum(lens) / 1e3


def plan(*chunks: tuple[int, int]) -> Plan:
    """A plan of chunks, each with its count and its end."""
    found = [SimpleNamespace(count=count, end=end) for count, end in chunks]
    return cast(Plan, SimpleNamespace(chunks=found))


USAGE = SimpleNamespace(used=1, cached=2, total=3)
POOL = SimpleNamespace(usage=lambda: USAGE)
SCHEDULER: Any = SimpleNamespace(waiting=[], running=[], pool=POOL)


def test_shares_are_of_the_time_since_the_last_report() -> None:
    figures = Figures(Gauge())
    assert figures.due(100.0, idle=False)
    assert figures.stats(SCHEDULER).utilisation == 0  # nothing to compare with
    figures.told()
    figures.stepped(500.0, plan((30, 30), (1, 7)))  # no decoding step
    figures.stepped(20.0, plan((1, 4), (1, 6)))
    figures.stepped(30.0, plan((1, 5), (1, 7)))
    assert not figures.due(100.2, idle=False)
    assert figures.due(101.0, idle=False)
    stats = figures.stats(SCHEDULER)
    figures.told()
    assert stats.busy_s == pytest.approx(0.55)
    assert stats.utilisation == pytest.approx(0.55)
    assert stats.floor_share == pytest.approx((10 + 12) / 50)
    assert (stats.device_used_bytes, stats.device_own_bytes) == (70, 50)
    assert figures.due(103.0, idle=False)
    stats = figures.stats(SCHEDULER)
    assert (stats.utilisation, stats.floor_share) == (0, 0)
    assert stats.busy_s == pytest.approx(0.55)


def test_without_a_gauge_nothing_is_said_of_a_device() -> None:
    figures = Figures()
    figures.stepped(5.0, plan((1, 4)))
    stats = figures.stats(SCHEDULER)
    assert (stats.floor_share, stats.device_total_bytes) == (0, 0)
