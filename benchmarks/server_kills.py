"""What kills of the whole worker cost its jobs: `python -m benchmarks.server_kills --kills 50`.

Clients keep jobs running at a worker with a journal: greedy, drawn, with penalties, held to a
schema, with stop strings and log-probabilities. The worker is killed (SIGKILL) at random moments,
also while it loads, and started again. A client that does not know whether it was heard sends its
job again, with the same key; half of the jobs are followed by streams that resume, the others are
read when all is over. Every answer is compared with that of an undisturbed worker, every stream
with one that is read again at the end. `--submits N` also times N submissions for each kind of
journal. Prints one JSON object; exit code 1 where anything is lost, doubled or different.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

CLIENTS, TOKENS = 16, 100
PROMPTS = ("Once upon a time", "The capital of France is", "Bees make honey because", "A list:")
SCHEMA = {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 3}
SETTLED_S = 300.0  # seconds in which all jobs must have ended once the kills are over


def requests(tokens: int) -> list[dict[str, Any]]:
    """One body for each client."""
    long = {"max_tokens": tokens, "ignore_eos": True}
    kinds: list[dict[str, Any]] = [
        {**long, "temperature": 0},
        {**long, "temperature": 1.0, "seed": 1, "logprobs": 2},
        {**long, "temperature": 0.8, "seed": 2, "repetition_penalty": 1.2, "stop": ["zz", "the q"]},
        {"max_tokens": tokens, "temperature": 1.0, "seed": 3, "json_schema": SCHEMA},
    ]
    return [{"prompt": PROMPTS[n % 4], **kinds[n // 4 % 4]} for n in range(CLIENTS)]


@dataclass
class Job:
    """A job that a client has asked for. events: by their SSE ids, in the order they came in."""

    body: int
    id: str = ""
    events: list[tuple[int, str]] = field(default_factory=list)
    done: bool = False


@dataclass
class Found:
    """What came of a run."""

    jobs: list[Job] = field(default_factory=list)
    sent_again: int = 0  # submissions whose answer was lost
    faults: list[str] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)  # seconds from a kill to the next event
    heard_s: float = 0.0


class Clients:
    """Keeps jobs running and checks what comes of them."""

    def __init__(self, url: str, tokens: int) -> None:
        self.bodies = requests(tokens)
        self.found = Found()
        self.over = asyncio.Event()  # no more jobs
        self.http = httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(120, connect=1))

    async def client(self, n: int) -> None:
        """Submit jobs one after another; follow every second one."""
        round_ = 0
        while not self.over.is_set():
            job = Job(n)
            await self.submit(job)
            if (n + round_) % 2 == 0:
                await self.follow(job)
            else:
                await asyncio.sleep(0.3)
            round_ += 1

    async def submit(self, job: Job) -> None:
        """Until it is accepted."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        while True:
            try:
                response = await self.http.post("/v1/jobs", json=self.bodies[job.body], headers=key)
            except httpx.TransportError:
                self.found.sent_again += 1
            else:
                if response.status_code == 200:
                    job.id = response.json()["job_id"]
                    self.found.jobs.append(job)
                    return
                if response.status_code not in (429, 503):
                    self.found.faults.append(f"submit: {response.status_code} {response.text}")
                    return
            await asyncio.sleep(0.05)

    async def follow(self, job: Job) -> None:
        """Read the job's events to the end, resuming as often as it takes."""
        while not job.done:
            last = {"Last-Event-ID": str(len(job.events))}
            with suppress(httpx.TransportError):
                url = f"/v1/jobs/{job.id}/stream"
                async with self.http.stream("GET", url, headers=last) as response:
                    if response.status_code == 200:
                        async for number, data in frames(response):
                            self._event(job, number, data)
                    elif response.status_code != 503:
                        told = (await response.aread()).decode()
                        self.found.faults.append(f"{job.id}: {response.status_code} {told}")
                        return
            await asyncio.sleep(0.02)

    def _event(self, job: Job, number: int, data: str) -> None:
        if data == "[DONE]":
            job.done = True
            return
        self.found.heard_s = time.monotonic()
        if number != len(job.events) + 1:
            self.found.faults.append(f"{job.id}: event {number} after {len(job.events)}")
        job.events.append((number, data))


async def frames(response: httpx.Response) -> AsyncIterator[tuple[int, str]]:
    """(id, data) of each whole event."""
    number = 0
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("data: "):
            yield number, line[6:]


def answer(events: Sequence[str]) -> dict[str, Any]:
    """What must not depend on any kill."""
    told = [
        event for event in map(json.loads, events) if event["type"] in ("token", "end", "error")
    ]
    ids: list[int] = []
    scores: list[Any] = []
    text = ""
    for event in told:
        if event["type"] == "error":
            return {"error": event["message"]}
        if event["type"] == "token" and event["i"] != len(ids):
            return {"error": f"token {event['i']} came after {len(ids)} tokens"}
        ids += event.get("ids", ())
        scores += event.get("logprobs") or ()
        text += event.get("t", "") + event.get("text", "")
    return {"ids": ids, "text": text, "logprobs": scores, "stop": told[-1]["stop"]}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def started(port: int, options: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rbee_worker", "serve", "--local-mode", "--port", str(port)]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)


async def ready(http: httpx.AsyncClient) -> None:
    while True:
        with suppress(httpx.TransportError):
            if (await http.get("/v1/ready")).status_code == 200:
                return
        await asyncio.sleep(0.02)


@asynccontextmanager
async def worker(port: int, options: Sequence[str]) -> AsyncIterator[httpx.AsyncClient]:
    """A worker that is ready, and ended afterwards."""
    process = started(port, options)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None) as http:
            await ready(http)
            yield http
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


async def undisturbed(bodies: list[dict[str, Any]], options: Sequence[str]) -> list[dict[str, Any]]:
    """The answer to each body, of a worker without a journal, one after another."""
    found = []
    async with worker(free_port(), options) as http:
        for body in bodies:
            url = (await http.post("/v1/jobs", json=body)).json()["sse_url"]
            async with http.stream("GET", url) as response:
                data = [data async for _, data in frames(response)]
            found.append(answer(data[:-1]))
    return found


async def measured(
    options: Sequence[str], kills: int, seed: int, tokens: int = TOKENS, longest_s: float = 1.5
) -> dict[str, Any]:
    """Counts of what was accepted, kept, lost and different, and seconds of pauses. longest_s: a
    ready worker lives no longer."""
    dice = random.Random(seed)
    alone = await undisturbed(requests(tokens), options)
    port = free_port()
    clients = Clients(f"http://127.0.0.1:{port}", tokens)
    with tempfile.TemporaryDirectory() as folder:
        kept = ["--keep-jobs-s", "86400", "--keep-jobs", "100000"]
        journal = ["--journal", str(Path(folder) / "journal"), *kept]
        process = started(port, [*options, *journal])
        try:
            tasks = [asyncio.create_task(clients.client(n)) for n in range(CLIENTS)]
            for _ in range(kills):
                life_s = dice.uniform(0.05, longest_s)
                loads = dice.random() < 0.2
                process = await _killed(
                    process, port, [*options, *journal], clients, life_s, loads=loads
                )
            await ready(clients.http)
            clients.over.set()
            await asyncio.wait_for(asyncio.gather(*tasks), SETTLED_S)
            counts = await asyncio.wait_for(_checked(clients, alone), SETTLED_S)
        finally:
            process.kill()
            process.wait()
            await clients.http.aclose()
    pauses = sorted(clients.found.pauses)
    return {
        "kills": kills,
        "clients": CLIENTS,
        **counts,
        "sent_again": clients.found.sent_again,
        "faults": clients.found.faults[:20],
        "kill_to_next_event_s": {
            "p50": round(pauses[len(pauses) // 2], 3),
            "max": round(pauses[-1], 3),
        },
    }


async def _killed(
    process: subprocess.Popen[bytes],
    port: int,
    options: Sequence[str],
    clients: Clients,
    life_s: float,
    *,
    loads: bool,
) -> subprocess.Popen[bytes]:
    """Kill the worker after `life_s` (loads: of loading, otherwise of being ready); returns the
    next one."""
    if not loads:
        await ready(clients.http)
    await asyncio.sleep(life_s)
    process.kill()
    await asyncio.to_thread(process.wait)
    killed_s = time.monotonic()
    after = started(port, options)
    if not loads:
        while clients.found.heard_s < killed_s and time.monotonic() < killed_s + 60:
            await asyncio.sleep(0.005)
        clients.found.pauses.append(clients.found.heard_s - killed_s)
    return after


async def _checked(clients: Clients, alone: list[dict[str, Any]]) -> dict[str, Any]:
    """Read every job once more and compare."""
    found = clients.found
    same = continued = 0
    for job in found.jobs:
        again = Job(job.body, job.id)
        await clients.follow(again)
        told = [data for _, data in again.events]
        continued += any("Worker restarted" in data for data in told)
        if job.events and job.events != again.events:
            found.faults.append(f"{job.id}: its events are other ones when they are read again")
        if (got := answer(told)) == alone[job.body]:
            same += 1
        else:
            found.faults.append(f"{job.id}: another answer ({got.get('error', 'other tokens')})")
    listed = {row["job_id"] for row in (await clients.http.get("/v1/jobs")).json()["jobs"]}
    ids = {job.id for job in found.jobs}
    return {
        "accepted": len(found.jobs),
        "same_answer": same,
        "continued_after_a_kill": continued,
        "lost": len(ids - listed),
        "doubled": len(listed - ids) + len(found.jobs) - len(ids),
    }


async def submits(options: Sequence[str], number: int) -> dict[str, Any]:
    """Milliseconds of POST /v1/jobs, for each kind of journal; one at a time, of one token."""
    found: dict[str, Any] = {}
    for sync in ("", "none", "jobs", "events"):
        with tempfile.TemporaryDirectory() as folder:
            more = ["--journal", folder, "--journal-sync", sync] if sync else []
            async with worker(free_port(), [*options, *more]) as http:
                times = []
                for _ in range(number):
                    body = {"prompt": "Once upon a time", "max_tokens": 1}
                    began = time.perf_counter()
                    created = (await http.post("/v1/jobs", json=body)).json()
                    times.append((time.perf_counter() - began) * 1e3)
                    await http.get(created["sse_url"])
        times.sort()
        p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
        name = f"journal, sync {sync}" if sync else "no journal"
        found[name] = {"p50": round(p50, 2), "p99": round(p99, 2)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=1.5, help="seconds of a worker's life")
    parser.add_argument("--submits", type=int, default=0)
    args = parser.parse_args()
    options = ["--model-ref", args.model, "--threads", str(args.threads)]
    found = asyncio.run(measured(options, args.kills, args.seed, args.tokens, args.longest))
    if args.submits:
        found["submit_ms"] = asyncio.run(submits(options, args.submits))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    raise SystemExit(not sound(found))


def sound(found: dict[str, Any]) -> bool:
    """Whether nothing was lost, doubled or different."""
    whole = found["same_answer"] == found["accepted"]
    return whole and not (found["lost"] or found["doubled"] or found["faults"])


if __name__ == "__main__":
    main()
