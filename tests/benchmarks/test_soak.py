"""The soak benchmark's own judgement: what it calls wrong, and how it measures growth."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.live_clients import Clients, Wrong
from benchmarks.live_worker import Figures, LiveWorker
from benchmarks.soak import faults_of
from benchmarks.soak_plot import plot, slope
from benchmarks.soak_trouble import Trouble
from benchmarks.soak_watch import (
    ANSWERS,
    KEPT,
    TURNS,
    Sample,
    mb_per_hour,
    warm_engine,
    warm_server,
)

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


def test_what_is_not_as_it_must_be_is_a_fault() -> None:
    base = {"descriptors": 20, "threads": 5, "children": 3, "kv_blocks_used": 0.0}
    found = {
        "wrong": 0, "of": 9, "before": base, "after": dict(base), "left in /dev/shm": [],
        "never happened": [], "never ended": [], "left out": ["the clock"],
        "server_mb_per_hour": 0.9, "engine_mb_per_hour": 1.1,
    }  # fmt: skip
    assert faults_of(found, 3) == []
    assert faults_of(found, 30) == ["the engine grows by 1.1 MB an hour", "left out: the clock"]
    after = base | {"descriptors": 21, "threads": 6, "children": 2, "kv_blocks_used": 1.0}
    assert [fault.split(":")[0] for fault in faults_of(found | {"after": after}, 3)] == [
        "descriptors", "kv_blocks_used"
    ]  # fmt: skip
    assert faults_of(found | {"wrong": 2}, 3) == ["2 of 9 answers are wrong"]
    assert faults_of(found | {"never happened": ["left"]}, 3) == ["it never happened: left"]


def sample(at: float, *, jobs: int = 0, answers: int = 0, pid: int = 1, mb: int = 0) -> Sample:
    return Sample(at, jobs, answers, pid, Figures(mb * 1_000_000, 10, 5))


def test_memory_is_judged_once_all_that_is_kept_was_replaced() -> None:
    enough = (1 + TURNS) * KEPT
    server = [
        sample(0, mb=50),
        sample(1, jobs=enough, answers=ANSWERS - 1, mb=60),
        sample(2, jobs=enough, answers=ANSWERS, mb=70),
        sample(3, jobs=enough + 1, answers=ANSWERS, mb=70),
        sample(4, jobs=enough + 9, answers=ANSWERS + 1, mb=70),
    ]
    assert warm_server(server) == server[2:]
    assert mb_per_hour(warm_server(server)) == 0
    assert mb_per_hour(server) > 3600
    engine = [
        sample(0, answers=50, pid=1),
        sample(1, answers=60, pid=2),
        sample(2, answers=60 + ANSWERS - 1, pid=2),
        sample(3, answers=60 + ANSWERS, pid=2),
    ]
    assert warm_engine(engine) == engine[3:]
    assert warm_engine([]) == []


def test_every_trouble_is_made_once_in_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_: float) -> None:
        """Instead of a pause."""

    async def made() -> bool:
        return True

    trouble = Trouble(LiveWorker(0, "", httpx.AsyncClient()), random.Random(1), None, None)
    for table in (trouble._gentle, trouble._fatal):
        table.update(dict.fromkeys(table, made))
    rounds = 3
    each = len(trouble.counts) + 1  # the engine is killed twice in a round
    assert trouble.missing() == [*trouble.counts]

    def over() -> bool:
        return sum(trouble.counts.values()) == rounds * each

    monkeypatch.setattr(asyncio, "sleep", at_once)
    asyncio.run(trouble.run(over, lambda: True))
    assert trouble.missing() == []
    assert trouble.counts.pop("engine killed") == 2 * rounds
    assert {*trouble.counts.values()} == {rounds}
