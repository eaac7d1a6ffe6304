"""A worker whose engine process is killed under streams: what its clients and its operators see."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from rbee_worker.client import AsyncClient, End, Narration, Token
from tests import tiny
from tests.server.spawned import Spawned

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
    return next(int(row.split()[0]) for row in listed.splitlines() if "process.main" in row)


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


async def states(http: httpx.AsyncClient, until: asyncio.Event) -> list[tuple[int, str]]:
    """(status, state) of /v1/ready, again and again."""
    seen: list[tuple[int, str]] = []
    while not until.is_set():
        answer = await http.get("/v1/ready")
        now = (answer.status_code, answer.json().get("state", "ready"))
        if now not in seen:
            seen.append(now)
        await asyncio.sleep(0.005)
    return seen


def test_streams_go_on_and_readiness_tells_the_truth(model: Path) -> None:
    args = ("--model-ref", str(model), "--backend", "cpu", "--threads", "1", "--local-mode", *SLOW)

    async def main(worker: Spawned) -> None:
        url = worker.line["url"]
        async with AsyncClient(url) as client, httpx.AsyncClient(base_url=url) as http:
            client.http.timeout = httpx.Timeout(60)
            undisturbed = await answer(client)
            over = asyncio.Event()
            watching = asyncio.create_task(states(http, over))
            running: list[None] = []

            def begun() -> None:
                running.append(None)
                if len(running) == TOGETHER:
                    os.kill(engine_of(worker), signal.SIGKILL)

            answers = await asyncio.gather(*(answer(client, begun) for _ in range(TOGETHER)))
            over.set()
            for ids, text, said in answers:
                assert (ids, text) == undisturbed[:2]
                assert {"restarting", "resumed"} <= {*said}
            assert (503, "restarting") in await watching
            assert (await http.get("/v1/ready")).status_code == 200
            told = (await http.get("/metrics")).text
            assert re.search(r"^rbee_engine_restarts_total 1\.0$", told, re.M)

    with Spawned.daemon("--port", "0", *args) as worker:
        worker.ready()
        asyncio.run(main(worker))
        worker.signal()
        assert worker.wait() == 0, worker.errors


@pytest.mark.parametrize("busy", [False, True])
def test_a_stopped_engine_keeps_nobody_waiting(model: Path, busy: bool) -> None:
    """Readiness says so, and SIGTERM ends the worker with its jobs, in the time that they get."""
    args = ("--model-ref", str(model), "--backend", "cpu", "--threads", "1", "--local-mode", *SLOW)

    async def main(worker: Spawned) -> None:
        async with httpx.AsyncClient(base_url=worker.line["url"]) as http:
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

    with Spawned.daemon("--port", "0", "--drain-timeout", "1", *args) as worker:
        worker.ready()
        asyncio.run(main(worker))
        told_s = time.monotonic()
        assert worker.wait() == 0, worker.errors
        assert time.monotonic() - told_s < 5  # of which 1 s for the jobs


def test_every_restart_is_counted(model: Path) -> None:
    """Also of an engine that is killed as soon as it is there."""
    args = ("--model-ref", str(model), "--backend", "cpu", "--threads", "1", "--local-mode")

    async def main(worker: Spawned) -> None:
        async with httpx.AsyncClient(base_url=worker.line["url"]) as http:
            for _ in range(3):
                os.kill(engine_of(worker), signal.SIGKILL)
                while (await http.get("/v1/ready")).status_code == 200:
                    await asyncio.sleep(0.002)
                while (await http.get("/v1/ready")).status_code != 200:
                    await asyncio.sleep(0.002)
            told = (await http.get("/metrics")).text
            assert re.search(r"^rbee_engine_restarts_total 3\.0$", told, re.M)

    with Spawned.daemon("--port", "0", *args) as worker:
        worker.ready()
        asyncio.run(main(worker))
        worker.signal()
        assert worker.wait() == 0, worker.errors
