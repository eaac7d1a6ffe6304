"""The soak benchmark's own judgement: what it calls wrong, and how it measures growth."""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.live_clients import Clients, Wrong
from benchmarks.live_worker import Figures, LiveWorker
from benchmarks.soak import UNEXPLAINED, faults_of
from benchmarks.soak_plot import plot, slope
from benchmarks.soak_trouble import Trouble, cut_log
from benchmarks.soak_watch import (
    ANSWERS,
    KEPT,
    TURNS,
    Sample,
    grown,
    mappings,
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
        "server_mb_per_hour": 0.9, "engine_mb_per_hour": 1.1, UNEXPLAINED: {"step": 2},
    }  # fmt: skip
    assert faults_of(found, 3) == []
    assert faults_of(found, 30) == ["the engine grows by 1.1 MB an hour", "left out: the clock"]
    after = base | {"descriptors": 21, "threads": 6, "children": 2, "kv_blocks_used": 1.0}
    assert [fault.split(":")[0] for fault in faults_of(found | {"after": after}, 3)] == [
        "descriptors", "kv_blocks_used"
    ]  # fmt: skip
    assert faults_of(found | {UNEXPLAINED: {"crashed": 1}}, 3) == [
        "engines that were lost by themselves (crashed): 1"
    ]
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


def test_what_grew_is_named() -> None:
    told: list[dict[str, int]] = [{"a [heap]": 5_000_000, "b": 7}, {}, {"a [heap]": 9, "c": 200}]
    told[2] |= {"b": 99_000, "a [heap]": 5_400_000, "d": 2_000_000}
    samples = [
        Sample(at, 0, 0, 1, Figures(0, 0, 0), mapped=mapped) for at, mapped in enumerate(told)
    ]
    assert grown(samples) == ["d: 2.00 MB more", "a [heap]: 0.40 MB more"]
    assert grown(samples[:2]) == []


def test_mappings_have_what_the_process_has_touched() -> None:
    before = sum(mappings(os.getpid()).values())
    touched = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    touched.write(b"x" * (8 << 20))
    assert sum(mappings(os.getpid()).values()) - before >= 7 << 20
    touched.close()


def test_a_journals_log_is_cut_where_its_turn_ends(tmp_path: Path) -> None:
    """What an earlier turn of the log has left goes; no row is lost, and SQLite goes on."""
    path = tmp_path / "jobs.db"
    db = sqlite3.connect(path, isolation_level=None)
    for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "wal_autocheckpoint = 0"):
        db.execute(f"PRAGMA {pragma}")
    db.execute("CREATE TABLE rows (text TEXT)")
    for _ in range(50):
        db.execute("INSERT INTO rows VALUES (?)", ("x" * 5000,))
    db.execute("PRAGMA wal_checkpoint(RESTART)")
    db.execute("INSERT INTO rows VALUES ('after')")
    log = path.with_name("jobs.db-wal")
    before = log.stat().st_size
    cut_log(tmp_path)
    assert log.stat().st_size < before / 10
    cut = log.stat().st_size
    cut_log(tmp_path)
    assert log.stat().st_size == cut
    db.execute("INSERT INTO rows VALUES ('at last')")
    shutil.copytree(tmp_path, tmp_path / "copy")  # what another process would find after a kill
    with closing(sqlite3.connect(tmp_path / "copy" / "jobs.db")) as copy:
        found = copy.execute("SELECT text FROM rows ORDER BY rowid").fetchall()
    assert (len(found), found[-2:]) == (52, [("after",), ("at last",)])
    db.close()


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
    asyncio.run(trouble.once())  # as before it begins: those count as well
    assert trouble.ended() == {
        "killed": 2 * rounds + 1, "crashed": rounds + 1, "stopped": rounds + 1
    }  # fmt: skip
    assert trouble.counts.pop("engine killed") == 2 * rounds
    assert {*trouble.counts.values()} == {rounds}
    gentle = [*trouble.calm_counts]
    assert trouble.missing_in_calm() == [f"{name}, at last" for name in gentle]
    asyncio.run(trouble.run(lambda: not trouble.missing_in_calm(), lambda: False))
    assert trouble.calm_counts == dict.fromkeys(gentle, 1)
