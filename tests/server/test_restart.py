"""A worker whose engine process is killed under streams: what its clients and its operators see."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from rbee_worker.client import AsyncClient, End, Narration, Token
from tests import tiny
from tests.patience import LIMIT_S
from tests.process import held
from tests.process.held import Hold, hold
from tests.server.spawned import Spawned

__all__ = ["hold"]

JOB = {"prompt": "the bee", "max_tokens": 150, "temperature": 1.0, "seed": 4, "ignore_eos": True}

SLOW = ("--no-kv-cache", "--token-budget", "16")  # every token takes some steps
TOGETHER = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_safetensors(tmp_path_factory.mktemp("restart") / "deep", layers=8)


def engine_of(worker: Spawned) -> int:
    """The engine's process id."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "-o", "args=", "--ppid", str(worker.process.pid)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    engines = ("rbee_worker.process.main", held.MODULE)
    rows = [row.split() for row in listed.splitlines()]
    return next(int(row[0]) for row in rows if any(name in row for name in engines))


async def answer(
    client: AsyncClient, begun: Callable[[], None] = lambda: None
) -> tuple[list[int], str, list[str]]:
    """A job's ids, its text and what was narrated; `begun` is called at its first token."""
    ids: list[int] = []
    text, said, told = "", [], False
    async for event in client.generate(**JOB):
        if isinstance(event, Token):
            assert event.i == len(ids), "a token lost or doubled"
        if isinstance(event, Token | End):
            ids += event.ids
            text += event.t if isinstance(event, Token) else event.text
        if isinstance(event, Narration):
            said.append(event.action)
        if ids and not told:
            told = True
            begun()
    assert isinstance(event, End)
    assert event.stop_reason == "MAX_TOKENS"
    assert event.tokens_out == len(ids) == JOB["max_tokens"]
    return ids, text, said


def test_streams_go_on_and_readiness_tells_the_truth(model: Path, hold: Hold) -> None:
    args = ("--model-ref", str(model), "--backend", "cpu", "--threads", "1", "--local-mode", *SLOW)

    async def main(worker: Spawned) -> None:
        url = worker.line["url"]
        async with AsyncClient(url) as client, httpx.AsyncClient(base_url=url) as http:
            client.http.timeout = http.timeout = httpx.Timeout(LIMIT_S)
            undisturbed = await answer(client)
            hold.set()
            running: list[None] = []
            killed = asyncio.Event()

            def begun() -> None:
                running.append(None)
                if len(running) == TOGETHER:
                    hold.starts(False)
                    hold.kill(engine_of(worker))
                    killed.set()

            async def ready(status: int) -> str:
                """The state, once /v1/ready answers so."""
                while (told := await http.get("/v1/ready")).status_code != status:
                    await asyncio.sleep(0.005)
                return str(told.json().get("state", "ready"))

            async def watched() -> str:
                await killed.wait()
                state = await ready(503)
                hold.starts(True)
                await ready(200)
                return state

            watching = asyncio.create_task(watched())
            answers = await asyncio.gather(*(answer(client, begun) for _ in range(TOGETHER)))
            assert await watching == "restarting"
            for ids, text, said in answers:
                assert (ids, text) == undisturbed[:2]
                assert {"restarting", "resumed"} <= {*said}
            told = (await http.get("/metrics")).text
            assert re.search(r"^rbee_engine_restarts_total 1\.0$", told, re.M)

    with Spawned.held(hold, "--port", "0", *args) as worker:
        worker.ready()
        asyncio.run(main(worker))
        worker.signal()
        assert worker.wait() == 0, worker.errors


@pytest.mark.parametrize("busy", [False, True])
def test_a_stopped_engine_keeps_nobody_waiting(model: Path, busy: bool, hold: Hold) -> None:
    """Readiness says so, and SIGTERM ends the worker with its jobs, in the time that they get."""
    args = ("--model-ref", str(model), "--backend", "cpu", "--threads", "1", "--local-mode", *SLOW)

    async def main(worker: Spawned) -> None:
        async with httpx.AsyncClient(base_url=worker.line["url"], timeout=LIMIT_S) as http:
            hold.set()
            job = (await http.post("/v1/jobs", json=JOB)).json()
            if not busy:
                await http.delete(f"/v1/jobs/{job['job_id']}")
            os.kill(engine_of(worker), signal.SIGSTOP)
            while (answer := await http.get("/v1/ready")).status_code == 200:
                await asyncio.sleep(0.01)
            assert answer.json()["state"] == "stalled"
            assert "does not answer" in answer.json()["reason"]
            told = (await http.get("/metrics")).text
            assert 'rbee_state{state="stalled"} 1.0' in told
            assert 'rbee_state{state="ready"} 0.0' in told
            assert (await http.get("/info")).json()["status"] == "starting"
            assert (await http.post("/v1/jobs", json=JOB)).status_code == 503
            worker.signal()
            if busy:
                stream = (await http.get(f"/v1/jobs/{job['job_id']}/stream")).text
                assert '"CANCELLED"' in stream

    with Spawned.held(hold, "--port", "0", "--drain-timeout", "1", *args) as worker:
        worker.ready()
        asyncio.run(main(worker))
        told_s = time.monotonic()
        assert worker.wait() == 0, worker.errors
        assert time.monotonic() - told_s < 5  # of which 1 s for the jobs


@pytest.mark.slow
def test_a_full_disk_of_logs_ends_neither_the_worker_nor_its_answers(
    model: Path, hold: Hold
) -> None:
    """stderr, the trace and the audit log at once; also when an engine is lost and when it ends."""
    args = ("--model-ref", str(model), "--backend", "cpu", "--threads", "1", "--local-mode", *SLOW)
    full = [option for name in ("--trace", "--audit-log") for option in (name, "/dev/full")]
    program = [sys.executable, "-m", held.PROGRAM, "daemon", *args]
    command = ["sh", "-c", 'exec "$0" "$@" 2>/dev/full', *program]

    async def main(worker: Spawned) -> None:
        async with AsyncClient(worker.line["url"]) as client:
            client.http.timeout = httpx.Timeout(LIMIT_S)
            undisturbed = await answer(client)
            hold.set()
            kill = lambda: hold.kill(engine_of(worker))  # noqa: E731
            ids, text, said = await answer(client, kill)
            assert (ids, text) == undisturbed[:2]
            assert "resumed" in said

    options = ["--port", "0", "--log-level", "debug", *full]
    with Spawned([*command, *options], hold.env) as worker:
        worker.ready()
        asyncio.run(main(worker))
        worker.signal()
        assert worker.wait() == 0


def test_every_restart_is_counted(model: Path) -> None:
    """Also of an engine that is killed as soon as it is there."""
    args = ("--model-ref", str(model), "--backend", "cpu", "--threads", "1", "--local-mode")

    async def main(worker: Spawned) -> None:
        async with httpx.AsyncClient(base_url=worker.line["url"], timeout=LIMIT_S) as http:

            async def restarts() -> float:
                told = (await http.get("/metrics")).text
                found = re.search(r"^rbee_engine_restarts_total (\S+)$", told, re.M)
                assert found is not None
                return float(found[1])

            for count in (1, 2, 3):
                os.kill(engine_of(worker), signal.SIGKILL)
                while await restarts() < count:
                    await asyncio.sleep(0.002)
                while (await http.get("/v1/ready")).status_code != 200:
                    await asyncio.sleep(0.002)
            assert await restarts() == 3
            told = (await http.get("/metrics")).text
            assert 'rbee_engines_lost_total{reason="killed"} 3.0' in told
            assert 'rbee_engines_lost_total{reason="step"} 0.0' in told

    with Spawned.daemon("--port", "0", *args) as worker:
        worker.ready()
        asyncio.run(main(worker))
        worker.signal()
        assert worker.wait() == 0, worker.errors
