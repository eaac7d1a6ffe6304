"""--journal: jobs outlive the worker's process, and their clients notice nothing but a pause."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rbee_worker.errors import NotReady, UsageError
from rbee_worker.journal import directory, writer
from rbee_worker.journal.database import Database
from rbee_worker.journal.directory import Directory
from rbee_worker.journal.records import Append
from rbee_worker.observe import narration
from rbee_worker.server import keeper, recovery
from rbee_worker.server.job_store import Jobs
from rbee_worker.server.jobs import Asked, Job
from rbee_worker.server.recovery import Recovery, ended_with
from rbee_worker.types import Event, Request, Token
from tests.patience import LIMIT_S
from tests.server.fake_engine import Fake, FakeEngineClient, answer_ids
from tests.server.reading import DONE, events, frames
from tests.server.served import Served, wait_for
from tests.server.spawned import Spawned

BODY = {"prompt": "a bee", "max_tokens": 60, "seed": 3}
ALL = bytes(answer_ids(Request(id="", prompt="a bee"))[:60]).decode(errors="replace")


def start(served: Served | Spawned, **body: Any) -> str:
    response = served.http.post("/v1/jobs", json={**BODY, **body})
    assert response.status_code == 200, response.text
    return str(response.json()["job_id"])


def answer(found: list[Any]) -> str:
    told = [e for e in found if e != DONE and e["type"] in ("token", "end")]
    return "".join(e["t"] if e["type"] == "token" else e["text"] for e in told)


def drawn(served: Served | Spawned, job: str) -> int:
    return int(served.http.get(f"/v1/jobs/{job}").json()["tokens_out"])


def test_a_finished_job_is_served_again_by_another_process(tmp_path: Path) -> None:
    journal = str(tmp_path / "j")
    with Served(journal=journal) as served:
        job = start(served, logprobs=2, echo=True, stop=["never"])
        stream = served.http.get(f"/v1/jobs/{job}/stream").text
        state = served.http.get(f"/v1/jobs/{job}").json()
    with Served(journal=journal) as served:
        assert served.http.get(f"/v1/jobs/{job}/stream").text == stream
        assert served.http.get(f"/v1/jobs/{job}").json() == state
        assert [row["job_id"] for row in served.http.get("/v1/jobs").json()["jobs"]] == [job]
        known = frames(stream)
        later = served.http.get(f"/v1/jobs/{job}/stream", headers={"Last-Event-ID": "7"})
        assert frames(later.text) == known[7:]
        assert served.engine.submitted == 0


def test_a_job_that_had_not_ended_goes_on(tmp_path: Path) -> None:
    """A worker that is told to stop leaves it to the next one; the stream breaks off and is
    resumed: the ids go on, nothing is lost or doubled."""
    journal = str(tmp_path / "j")
    hold = threading.Event()
    with Served(Fake(hold=hold), journal=journal, drain_timeout=0) as served:
        job = start(served)
        wait_for(lambda: drawn(served, job) > 0)
        with served.http.stream("GET", f"/v1/jobs/{job}/stream") as stream:
            parts: list[str] = []
            reading = threading.Thread(target=lambda: parts.extend(stream.iter_text()))
            reading.start()
            wait_for(lambda: '"token"' in "".join(parts))
            served.stop()
            assert served.join() == 0
            reading.join(LIMIT_S)
    before = frames("".join(parts))
    assert DONE not in [data for _, data in before]
    assert [number for number, _ in before] == [*range(1, len(before) + 1)]
    with Served(journal=journal) as served:
        last = {"Last-Event-ID": str(len(before))}
        after = frames(served.http.get(f"/v1/jobs/{job}/stream", headers=last).text)
        assert [number for number, _ in after] == [
            *range(len(before) + 1, len(before) + len(after)),
            None,
        ]
        found = [data for _, data in before + after]
        assert answer(found) == ALL
        assert found[-2]["stop_reason"] == "MAX_TOKENS"
        assert found == events(served.http.get(f"/v1/jobs/{job}/stream").text)
        (resumed,) = served.engine.resumed
        assert (resumed.id, resumed.prompt) == (job, None)


def test_a_worker_that_is_killed_loses_nothing_that_a_client_has_seen(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    fake = {"hold": str(hold), "hold_at": 20}
    settings = {"journal": str(tmp_path / "j")}
    with Spawned.fake(settings, fake) as worker:
        worker.ready()
        jobs = [start(worker) for _ in range(3)]
        with worker.http.stream("GET", f"/v1/jobs/{jobs[0]}/stream") as stream:
            text = ""
            for part in stream.iter_text():
                text += part
                if text.count('"token"') > 10:
                    break
            worker.process.kill()
            worker.wait()
    hold.unlink()
    before = frames(text[: text.rindex("\n\n") + 2])
    with Spawned.fake(settings, fake) as worker:
        worker.ready()
        last = {"Last-Event-ID": str(len(before))}
        after = frames(worker.http.get(f"/v1/jobs/{jobs[0]}/stream", headers=last).text)
        assert [n for n, _ in before + after] == [*range(1, len(before + after)), None]
        assert answer([data for _, data in before + after]) == ALL
        for job in jobs:
            assert answer(events(worker.http.get(f"/v1/jobs/{job}/stream").text)) == ALL


def test_keys_are_known_to_the_next_process(tmp_path: Path) -> None:
    journal = str(tmp_path / "j")
    key = {"Idempotency-Key": "k"}
    with Served(journal=journal) as served:
        first = served.http.post("/v1/jobs", json=BODY, headers=key).json()
    with Served(journal=journal) as served:
        again = served.http.post("/v1/jobs", json=BODY, headers=key)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json() == first
        other = served.http.post("/v1/jobs", json={**BODY, "seed": 4}, headers=key)
        assert other.status_code == 409
        assert first["job_id"] in other.json()["error"]["message"]


def test_what_waits_for_the_model_is_known_and_can_be_cancelled(tmp_path: Path) -> None:
    journal = str(tmp_path / "j")
    hold = threading.Event()
    with Served(Fake(hold=hold), journal=journal, drain_timeout=0) as served:
        kept, unwanted = start(served), start(served)
        wait_for(lambda: drawn(served, kept) > 0 and drawn(served, unwanted) > 0)
    go = threading.Event()
    served = Served(Fake(load_hold=go), journal=journal).start()
    try:
        found = served.http.get(f"/v1/jobs/{kept}").json()
        assert (found["state"], found["tokens_out"]) == ("queued", 1)
        served.http.delete(f"/v1/jobs/{unwanted}")
        state = served.http.get(f"/v1/jobs/{unwanted}").json()
        assert (state["state"], state["tokens_out"]) == ("cancelled", 1)
        assert served.http.get("/v1/ready").status_code == 503
        go.set()
        assert answer(events(served.http.get(f"/v1/jobs/{kept}/stream").text)) == ALL
        assert [request.id for request in served.engine.resumed] == [kept]
    finally:
        served.__exit__()


def test_log_probabilities_are_shown_once_the_vocabulary_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then a stream is refused, and not begun: what has begun would break off."""
    journal = str(tmp_path / "j")
    with Served(journal=journal) as served:
        scored = start(served, logprobs=1)
        plain = start(served)
        streams = {job: f"/v1/jobs/{job}/stream" for job in (scored, plain)}
        before = {job: served.http.get(at).text for job, at in streams.items()}

    def unread(_: FakeEngineClient) -> Any:
        raise NotReady("loading", "Not ready: the engine is loading.")

    with monkeypatch.context() as patched, Served(journal=journal) as served:
        unread_yet = property(unread, lambda *_: None)
        patched.setattr(FakeEngineClient, "tokenizer", unread_yet, raising=False)
        assert served.http.get(streams[plain]).text == before[plain]
        for path in (streams[scored], f"/v1/jobs/{scored}"):
            refused = served.http.get(path)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        patched.undo()
    with Served(journal=journal) as served:
        assert served.http.get(streams[scored]).text == before[scored]


def test_a_time_limit_goes_on_while_no_worker_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = str(tmp_path / "j")
    hold = threading.Event()
    with Served(Fake(hold=hold), journal=journal, drain_timeout=0) as served:
        job = start(served, timeout_s=1000)
        long = start(served, timeout_s=5000)
        wait_for(lambda: drawn(served, job) > 0 and drawn(served, long) > 0)
    later = SimpleNamespace(time=lambda: time.time() + 1000, monotonic=time.monotonic)
    monkeypatch.setattr(recovery, "time", later)
    with Served(Fake(), journal=journal) as served:
        found = events(served.http.get(f"/v1/jobs/{job}/stream").text)
        assert found[-2]["stop_reason"] == "TIMEOUT"
        assert answer(events(served.http.get(f"/v1/jobs/{long}/stream").text)) == ALL
        (resumed,) = served.engine.resumed
        assert resumed.timeout_s is not None
        assert 4000 - LIMIT_S < resumed.timeout_s <= 4000


def test_jobs_of_other_weights_end_and_say_why(tmp_path: Path) -> None:
    journal = str(tmp_path / "j")
    hold = threading.Event()
    with Served(Fake(hold=hold), journal=journal, drain_timeout=0) as served:
        job = start(served)
        wait_for(lambda: drawn(served, job) > 0)
    with Served(Fake(fingerprint="of another"), journal=journal) as served:
        found = events(served.http.get(f"/v1/jobs/{job}/stream").text)
        assert found[-2]["type"] == "error"
        assert "the model's files, or how they are computed, have changed" in found[-2]["message"]
        done = start(served)
        served.http.get(f"/v1/jobs/{done}/stream")
    with Served(Fake(fingerprint="of another"), journal=journal) as served:
        assert events(served.http.get(f"/v1/jobs/{job}/stream").text) == found
        assert answer(events(served.http.get(f"/v1/jobs/{done}/stream").text)) == ALL


def test_jobs_of_other_weights_end_also_where_their_end_was_not_written(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """The worker that found other weights leaves before it has ended them: the next one, which has
    the same other weights, must not take them for its own."""
    journal = str(tmp_path / "j")
    hold = threading.Event()
    with Served(Fake(hold=hold), journal=journal, drain_timeout=0) as served:
        job = start(served)
        wait_for(lambda: drawn(served, job) > 0)

    async def never(*_: Any) -> None:
        await asyncio.sleep(3600)

    with monkeypatch.context() as patched:
        patched.setattr(Recovery, "_fail", never)
        with Served(Fake(fingerprint="of another"), journal=journal) as served:
            assert served.http.get(f"/v1/jobs/{job}").json()["state"] == "queued"
    with Served(Fake(fingerprint="of another"), journal=journal) as served:
        found = events(served.http.get(f"/v1/jobs/{job}/stream").text)
        assert "have changed" in found[-2]["message"]
        assert served.engine.resumed == []


def test_no_job_is_accepted_before_the_journal_says_what_it_is_computed_with(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """Otherwise a worker with other weights would take it for its own."""
    go = threading.Event()

    async def slow(client: FakeEngineClient) -> str:
        await asyncio.to_thread(go.wait)
        return client.fake.fingerprint

    monkeypatch.setattr(FakeEngineClient, "fingerprint", slow)
    with Served(journal=str(tmp_path)) as served:
        threading.Timer(0.1, go.set).start()
        job = start(served)
        assert go.is_set()
        assert answer(events(served.http.get(f"/v1/jobs/{job}/stream").text)) == ALL


def test_a_job_that_is_cancelled_while_its_end_is_written_ends_once(
    tmp_path: Path, monkeypatch: Any
) -> None:
    journal, write, go = str(tmp_path / "j"), Database.write, threading.Event()
    hold = threading.Event()
    with Served(Fake(hold=hold), journal=journal, drain_timeout=0) as served:
        job = start(served)
        wait_for(lambda: drawn(served, job) > 0)

    def late(database: Database, entries: Sequence[Any]) -> None:
        if any(isinstance(entry, Append) and entry.finished for entry in entries):
            go.wait()
        write(database, entries)

    monkeypatch.setattr(Database, "write", late)
    with Served(Fake(fingerprint="of another"), journal=journal) as served:
        threading.Timer(0.1, go.set).start()
        assert served.http.delete(f"/v1/jobs/{job}").status_code == 200
        found = events(served.http.get(f"/v1/jobs/{job}/stream").text)
        assert [e["type"] for e in found[:-1] if e["type"] in ("end", "error")] == ["error"]
        assert metric(served, "rbee_journal_failures_total") == 0


def test_what_the_worker_computes_with_is_noted_once_the_disk_has_space(
    tmp_path: Path, monkeypatch: Any
) -> None:
    journal, disk, hold = str(tmp_path / "j"), Disk(monkeypatch), threading.Event()
    with Served(journal=journal):
        pass
    disk.full = True
    other = Fake(fingerprint="of another", hold=hold)
    with Served(other, journal=journal, drain_timeout=0) as served:
        wait_for(lambda: metric(served, "rbee_journal_working") == 0)
        disk.full = False
        wait_for(lambda: metric(served, "rbee_journal_working") == 1)
        job = start(served)
        wait_for(lambda: drawn(served, job) > 0)
    with Served(Fake(fingerprint="of another"), journal=journal) as served:
        assert answer(events(served.http.get(f"/v1/jobs/{job}/stream").text)) == ALL


def test_a_journal_of_another_model_is_set_aside(tmp_path: Path, capfd: Any) -> None:
    with Served(journal=str(tmp_path), model="one") as served:
        job = start(served)
        served.http.get(f"/v1/jobs/{job}/stream")
    with Served(journal=str(tmp_path), model="two") as served:
        assert served.http.get(f"/v1/jobs/{job}").status_code == 404
    (aside,) = tmp_path.glob("*.aside")
    aside.rename(tmp_path / "jobs.db")
    with Served(journal=str(tmp_path), model="one") as served:
        assert answer(events(served.http.get(f"/v1/jobs/{job}/stream").text)) == ALL


@pytest.mark.parametrize("damage", ["no database", "torn", "row"])
def test_a_damaged_journal_never_costs_the_worker(tmp_path: Path, damage: str) -> None:
    with Served(journal=str(tmp_path)) as served:
        jobs = [start(served) for _ in range(2)]
        for job in jobs:
            served.http.get(f"/v1/jobs/{job}/stream")
    file = tmp_path / "jobs.db"
    raw = bytearray(file.read_bytes())
    if damage == "no database":
        raw[:] = b"what is this" * 999
    elif damage == "torn":
        raw[4096:] = os.urandom(len(raw) - 4096)
    else:
        at = raw.rindex(b"token")
        raw[at] ^= 1
    file.write_bytes(raw)
    with Served(journal=str(tmp_path)) as served:
        told = served.service.worker.journal.directory.told
        assert len(told) == 1, told
        found = [served.http.get(f"/v1/jobs/{job}").status_code for job in jobs]
        assert sorted(found) == ([200, 404] if damage == "row" else [404, 404])
        assert ("set aside" in told[0]) == (damage != "row")
        job = start(served)
        assert answer(events(served.http.get(f"/v1/jobs/{job}/stream").text)) == ALL
    with Served(journal=str(tmp_path)) as served:
        assert served.service.worker.journal.directory.told == []
        assert served.http.get(f"/v1/jobs/{job}").status_code == 200


def test_two_workers_cannot_have_one_directory(tmp_path: Path) -> None:
    first = Directory(str(tmp_path / "j"))
    with pytest.raises(UsageError, match="another worker uses this directory"):
        Directory(str(tmp_path / "j"))
    with Spawned.daemon("--local-mode", "--journal", str(tmp_path / "j")) as second:
        assert second.wait() == 2
        assert second.line == {}
        assert second.errors.decode().count("\n") == 1
        assert "another worker uses this directory" in second.errors.decode()
    first.close()
    Directory(str(tmp_path / "j")).close()


@pytest.mark.parametrize("place", ["file", "below a file"])
def test_a_directory_that_cannot_be_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    name = tmp_path / "file" if place == "file" else tmp_path / "file" / "j"
    with pytest.raises(UsageError, match="--journal "):
        Directory(str(name))


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with Served(journal=str(tmp_path / "a" / "j")) as served:
            served.http.get(f"/v1/jobs/{start(served)}/stream")
            modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in (tmp_path / "a/j").iterdir()}
    finally:
        os.umask(old)
    assert modes.keys() >= {"jobs.db", "jobs.db-wal", "lock", "state"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "a/j").stat().st_mode) == 0o700


def raw_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


def test_a_job_that_is_forgotten_leaves_no_byte_of_its_prompt(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """As ids (small integers of msgpack are themselves); nothing keeps the text itself. Neither
    while the worker lives, whose log has all that was ever written, nor afterwards."""
    monkeypatch.setattr(writer, "WIPED_S", 0.02)
    with Served(journal=str(tmp_path), keep_jobs=1) as served:
        secret = start(served, prompt="xylophone" * 9, echo=True)
        served.http.get(f"/v1/jobs/{secret}/stream")
        assert b"xylophone" in raw_of(tmp_path)
        job = start(served)
        served.http.get(f"/v1/jobs/{job}/stream")
        wait_for(lambda: b"xylophone" not in raw_of(tmp_path))
    assert b"xylophone" not in raw_of(tmp_path)
    with Served(journal=str(tmp_path)) as served:
        assert [r["job_id"] for r in served.http.get("/v1/jobs").json()["jobs"]] == [job]


def test_an_idle_worker_forgets_as_well(tmp_path: Path, monkeypatch: Any) -> None:
    """Its journal holds prompts, and nobody may ask it anything for days."""
    monkeypatch.setattr("rbee_worker.server.run.FORGET_S", 0.02)
    with Served(journal=str(tmp_path), keep_jobs_s=900) as served:
        served.http.get(f"/v1/jobs/{start(served)}/stream")
        worker = served.service.worker
        response = {"model": "smollm2", "input": "a bee", "max_output_tokens": 3}
        assert served.http.post("/v1/responses", json=response).status_code == 200
        assert (len(worker.jobs._finished), len(worker.responses)) == (1, 1)
        worker.jobs._keep_s = worker.responses._keep_s = 0
        wait_for(lambda: not worker.jobs._finished and not len(worker.responses))
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as database:
        assert database.execute("SELECT count(*) FROM pieces").fetchone() == (0,)


def test_without_a_journal_nothing_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with Served() as served:
        served.http.get(f"/v1/jobs/{start(served)}/stream")
        assert not served.service.worker.jobs.get(start(served)).durable
    assert [*tmp_path.iterdir()] == []


class Disk:
    """Every write of the journal fails while it is full."""

    def __init__(self, monkeypatch: Any) -> None:
        self.full = False
        write = Database.write
        monkeypatch.setattr(keeper, "RETRY_S", 0.02)

        def maybe(database: Database, entries: Sequence[Any]) -> None:
            if self.full:
                raise sqlite3.OperationalError("database or disk is full")
            write(database, entries)

        monkeypatch.setattr(Database, "write", maybe)


def metric(served: Served | Spawned, name: str) -> float:
    lines = served.http.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def test_a_full_disk_is_no_error_to_clients(tmp_path: Path, monkeypatch: Any) -> None:
    """Jobs go on in memory and say so; once there is space again, all of it is written."""
    disk, hold = Disk(monkeypatch), threading.Event()
    with Served(Fake(hold=hold), journal=str(tmp_path)) as served:
        before, gone = start(served), start(served, max_tokens=1)
        wait_for(lambda: drawn(served, before) > 0)
        assert served.http.get("/info").json()["journal"] == "working"
        disk.full = True
        during = start(served)
        hold.set()
        streams = [served.http.get(f"/v1/jobs/{job}/stream").text for job in (before, during)]
        for found in map(events, streams):
            assert answer(found) == ALL
            told = [
                e["human"] for e in found[:-1] if e["type"] == "narration" if "kept" in e["human"]
            ]
            assert told == [
                "The journal cannot be written (database or disk is full): this job is now kept in "
                "memory only."
            ]
        assert served.http.get("/info").json()["journal"] == "behind"
        assert metric(served, "rbee_journal_working") == 0
        wait_for(lambda: metric(served, "rbee_journal_failures_total") > 2)
        disk.full = False
        wait_for(lambda: metric(served, "rbee_journal_working") == 1)
        after = start(served)
        streams.append(served.http.get(f"/v1/jobs/{after}/stream").text)
        assert "memory only" not in streams[-1]
    with Served(journal=str(tmp_path)) as served:
        for job, text in zip((before, during, after), streams, strict=True):
            assert served.http.get(f"/v1/jobs/{job}/stream").text == text
        assert served.http.get(f"/v1/jobs/{gone}").json()["state"] == "done"


def test_a_worker_that_leaves_while_the_disk_is_full_loses_no_job_silently(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """What its clients were given is not known to the next one, so it does not go on as if."""
    disk, hold = Disk(monkeypatch), threading.Event()
    with Served(Fake(hold=hold), journal=str(tmp_path), drain_timeout=0) as served:
        job = start(served)
        wait_for(lambda: drawn(served, job) > 0)
        disk.full = True
        unknown = start(served)
    disk.full = False
    for _ in range(2):
        with Served(journal=str(tmp_path)) as served:
            found = events(served.http.get(f"/v1/jobs/{job}/stream").text)
            assert found[-2]["code"] == "ENGINE_LOST"
            assert "the journal could not be written when the worker ended" in found[-2]["message"]
            assert served.http.get(f"/v1/jobs/{unknown}").status_code == 404
            assert answer(events(served.http.get(f"/v1/jobs/{start(served)}/stream").text)) == ALL


def test_what_an_earlier_worker_could_not_write_is_still_missing_once_this_one_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up and empties again while the model is loaded; the jobs have not ended yet,
    and this worker leaves before they have."""
    disk, hold = Disk(monkeypatch), threading.Event()
    with Served(Fake(hold=hold), journal=str(tmp_path), drain_timeout=0) as served:
        job, other = start(served), start(served)
        wait_for(lambda: drawn(served, job) > 0 and drawn(served, other) > 0)
        disk.full = True
        start(served)
    disk.full = False
    served = Served(Fake(load_hold=threading.Event()), journal=str(tmp_path)).start()
    try:
        wait_for(lambda: served.http.get(f"/v1/jobs/{other}").status_code == 200)
        disk.full = True
        served.http.delete(f"/v1/jobs/{other}")
        wait_for(lambda: metric(served, "rbee_journal_working") == 0)
        disk.full = False
        wait_for(lambda: metric(served, "rbee_journal_working") == 1)
    finally:
        served.__exit__()
    with Served(journal=str(tmp_path)) as served:
        found = events(served.http.get(f"/v1/jobs/{job}/stream").text)
        assert "the journal could not be written when the worker ended" in found[-2]["message"]
        assert not served.engine.resumed


def test_a_journal_that_was_set_aside_while_it_lacked_events_says_so_when_it_is_taken_back(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """However often; and what is written into it from then on counts as ever."""
    disk, hold = Disk(monkeypatch), threading.Event()
    one, two = ({"journal": str(tmp_path), "model": name} for name in ("one", "two"))
    with Served(Fake(hold=hold), drain_timeout=0, **one) as served:
        job = start(served)
        wait_for(lambda: drawn(served, job) > 0)
        disk.full = True
        start(served)
    disk.full = False

    def away_and_back() -> None:
        with Served(**two) as served:
            assert served.http.get(f"/v1/jobs/{job}").status_code == 404
        (aside,) = tmp_path.glob("*.aside")
        (tmp_path / "jobs.db").unlink()
        aside.rename(tmp_path / "jobs.db")

    away_and_back()
    for _ in range(2):  # the second worker finds the end that the first one has written
        with Served(**one) as served:
            found = events(served.http.get(f"/v1/jobs/{job}/stream").text)
            assert found[-2]["code"] == "ENGINE_LOST"
            assert "the journal could not be written when the worker ended" in found[-2]["message"]
    with Served(Fake(hold=hold), drain_timeout=0, **one) as served:
        later = start(served)
        wait_for(lambda: drawn(served, later) > 0)
    away_and_back()
    with Served(**one) as served:
        assert answer(events(served.http.get(f"/v1/jobs/{later}/stream").text)) == ALL


def test_a_worker_that_leaves_while_it_reads_holds_the_directory_until_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one that took it meanwhile would find its files moved. And no job is said to be
    unknown that only has not been read."""
    reading, go = threading.Event(), threading.Event()
    load = Directory.load

    def slow(held: Directory, *args: Any, **more: Any) -> Any:
        reading.set()
        assert go.wait(LIMIT_S)
        return load(held, *args, **more)

    monkeypatch.setattr(Directory, "load", slow)
    with Served(journal=str(tmp_path)) as served:
        assert reading.wait(LIMIT_S)
        served.stop()
        try:
            wait_for(lambda: served.service.worker.journal.closing)
            with pytest.raises(UsageError, match="another worker uses"):
                Directory(str(tmp_path))
            for path in ("/v1/jobs", "/v1/jobs/job-of-the-last-worker"):  # which may well be there
                refused = served.http.get(path)
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "not_ready"
        finally:
            go.set()
        assert served.join() == 0
    Directory(str(tmp_path)).close()


def test_a_journal_whose_lack_cannot_be_noted_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Directory(str(tmp_path))
    held.load("one", "1", most_bytes=1 << 20, sync="none")[0].close()
    held.whole(False)
    held.close()

    def full(path: Path) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(directory, "note_lack", full)
    other = Directory(str(tmp_path))
    with pytest.raises(UsageError, match="disk is full"):
        other.load("two", "1", most_bytes=1 << 20, sync="none")
    other.close()
    assert not [*tmp_path.glob("*.aside")]


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    """With SQLite's own errors: the process may write no file beyond where it is."""
    hold = tmp_path / "hold"
    hold.touch()
    fake = {"hold": str(hold), "hold_at": 10}
    with Spawned.fake({"journal": str(tmp_path)}, fake) as worker:
        worker.ready()
        job = start(worker)
        wait_for(lambda: drawn(worker, job) > 3)
        size = max(f.stat().st_size for f in tmp_path.iterdir())
        limits = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (size, limits[1]))
        hold.unlink()
        found = events(worker.http.get(f"/v1/jobs/{job}/stream").text)
        assert answer(found) == ALL
        assert "memory_only" in [e.get("action") for e in found[:-1]]
        assert metric(worker, "rbee_journal_working") == 0
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, limits)
        worker.signal()
        assert worker.wait() == 0  # which writes what is missing
    with Spawned.fake({"journal": str(tmp_path)}) as worker:
        worker.ready()
        assert events(worker.http.get(f"/v1/jobs/{job}/stream").text) == found


@pytest.mark.slow
def test_the_journal_has_a_size(tmp_path: Path) -> None:
    """Finished jobs leave, the oldest first; live ones never."""
    with Served(journal=str(tmp_path), journal_mb=1) as served:
        prompt = "bee " * 1000
        jobs = []
        while metric(served, "rbee_journal_removed_jobs_total") < 8:
            jobs.append(start(served, prompt=prompt, max_tokens=1))
            served.http.get(f"/v1/jobs/{jobs[-1]}/stream")
            assert len(jobs) < 500
        removed = metric(served, "rbee_journal_removed_jobs_total")
        assert metric(served, "rbee_journal_bytes") <= 1 << 20
        assert served.http.get(f"/v1/jobs/{jobs[0]}").status_code == 200  # in memory
    with Served(journal=str(tmp_path), journal_mb=1) as served:
        found = [served.http.get(f"/v1/jobs/{job}").status_code for job in jobs]
        assert found == sorted(found, reverse=True)
        assert found.count(404) == removed


def test_finished_jobs_leave_for_a_large_one_and_a_job_too_large_leaves_when_it_ends(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(keeper, "RETRY_S", 0.02)
    fake, hold = Fake(context=1 << 21, chunk=8), threading.Event()
    with Served(fake, journal=str(tmp_path), journal_mb=1) as served:

        def done(characters: int) -> str:
            job = start(served, prompt="b" * characters, max_tokens=2)
            assert served.http.get(f"/v1/jobs/{job}/stream").status_code == 200
            return job

        for _ in range(2):  # three quarters of the size, and then as much again
            done(390_000)
        done(600_000)
        assert metric(served, "rbee_journal_failures_total") == 0
        assert metric(served, "rbee_journal_removed_jobs_total") == 2
        fake.hold = hold
        large = start(served, prompt="b" * 1_400_000, max_tokens=9)
        wait_for(lambda: metric(served, "rbee_journal_working") == 0)
        hold.set()
        found = events(served.http.get(f"/v1/jobs/{large}/stream").text)
        told = next(e["human"] for e in found if e["type"] == "narration" and "kept" in e["human"])
        assert "(it would be larger than --journal-mb allows)" in told
        wait_for(lambda: metric(served, "rbee_journal_working") == 1)
        assert served.http.get(f"/v1/jobs/{large}").status_code == 200
        small = done(9)
    with Served(journal=str(tmp_path), journal_mb=1) as served:
        assert served.http.get(f"/v1/jobs/{large}").status_code == 404
        assert served.http.get(f"/v1/jobs/{small}").status_code == 200


def test_a_key_that_two_kept_jobs_have_is_that_of_the_later_one() -> None:
    """One that was forgotten and is in the journal still, and one that was asked for after it."""
    jobs = Jobs(keep_s=1e6, keep_n=1)
    first, second, third = (
        Job(Request(id=name), asked=Asked(key, b""), finished=time.time())
        for name, key in (("a", "k"), ("b", "k"), ("c", "other"))
    )
    for job in (first, second):
        job.log.close()
        jobs.recall(job)
    assert jobs.by_key("k") is second
    third.log.close()
    jobs.recall(third)
    assert jobs.by_key("k") is None


def test_a_job_that_nothing_survives_fails() -> None:
    """What ended while it was computed is counted from what it was told; a token clears it."""
    begun = narration.prompt_scheduled("a", 5, 0, 0.0)
    lost, paused = narration.engine_restarting("killed"), narration.preempted("a", 5)
    token = Token(t="a", i=0, ids=(1,))
    rows: list[tuple[list[Event], tuple[int, int]]] = [
        ([], (0, 0)),
        ([narration.queued("a", 3), lost], (0, 0)),
        ([begun], (0, 1)),
        ([begun, token], (0, 1)),
        ([begun, token, begun], (0, 2)),
        ([begun, paused, begun, token], (0, 1)),
        ([begun, lost, begun, lost], (2, 0)),
        ([begun, lost, narration.resumed("a", 0), begun, begun], (1, 2)),
        ([begun, lost, begun, token, lost, begun], (1, 1)),
    ]
    for events_, right in rows:
        assert ended_with(events_) == right
