"""The soak benchmark's own judgement: what it calls wrong, and how it measures growth."""

from __future__ import annotations

import random
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.live_clients import Clients, Wrong
from benchmarks.soak import faults_of
from benchmarks.soak_plot import plot, slope

END = {"type": "end", "text": "", "ids": [], "tokens_out": 3, "stop_reason": "MAX_TOKENS"}


def token(place: int, *ids: int) -> dict[str, Any]:
    return {"type": "token", "t": "x" * len(ids), "i": place, "ids": [*ids]}


def whole(*events: dict[str, Any]) -> dict[str, Any]:
    clients = Clients(httpx.AsyncClient(), "m", random.Random(0), lambda: None)
    return clients.whole([*events])


def test_an_answer_is_whole_or_wrong() -> None:
    assert whole(token(0, 5), token(1, 6, 7), END) == {
        "text": "xxx", "ids": [5, 6, 7], "stop": "MAX_TOKENS"
    }  # fmt: skip
    with pytest.raises(Wrong, match="token 0 where 1 was next"):
        whole(token(0, 5), token(0, 5), END)
    with pytest.raises(Wrong, match="1 tokens came of 3"):
        whole(token(0, 5), END)
    with pytest.raises(Wrong, match="ENGINE_LOST"):
        whole({"type": "error", "code": "ENGINE_LOST", "message": "gone"})


def test_growth_is_seen_through_peaks() -> None:
    at = np.arange(600.0)
    grows = 70e6 + 300 * at
    peaks = np.where(np.random.default_rng(1).random(600) < 0.1, 5e6, 0)
    assert slope([*zip(at, grows + peaks, strict=True)]) == pytest.approx(300, rel=0.02)
    assert abs(slope([*zip(at, 70e6 + peaks, strict=True)])) < 1
    assert "70 to 70" in plot("flat", [(0.0, 70.0), (1.0, 70.0)])


def test_what_is_not_back_at_its_base_is_a_fault() -> None:
    base = {"descriptors": 20, "threads": 5, "children": 3, "kv_blocks_used": 0.0}
    found = {"wrong": 0, "of": 9, "before": base, "after": dict(base), "left in /dev/shm": []}
    assert faults_of(found) == []
    after = base | {"descriptors": 21, "threads": 6, "children": 2, "kv_blocks_used": 1.0}
    assert [fault.split(":")[0] for fault in faults_of(found | {"after": after})] == [
        "descriptors", "kv_blocks_used"
    ]  # fmt: skip
    assert faults_of(found | {"wrong": 2}) == ["2 of 9 answers are wrong"]
