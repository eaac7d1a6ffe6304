"""What a crash of the engine costs its streams: `python -m benchmarks.crashes --kills 100`.

Streams of one worker run without end, half of them through the job API, half through the OpenAI
API; greedy, drawn with a seed, two choices. Meanwhile the engine's process is killed at random
moments. Every answer is compared with that of an undisturbed run. Recovery is the time from a kill
to the first token after it, of any stream. Prints one JSON object; exit code 1 where an answer
differs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

STREAMS, TOKENS = 16, 120
PROMPTS = ("Once upon a time", "The capital of France is", "Bees make honey because", "A list:")


def requests() -> list[dict[str, Any]]:
    """One body for each stream."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 1.0, "seed": 1},
        {"temperature": 0.8, "seed": 2, "repetition_penalty": 1.2},
        {"temperature": 1.0, "seed": 3, "n": 2},
    ]
    return [
        {"prompt": PROMPTS[n % 4], "max_tokens": TOKENS, "ignore_eos": True, **kinds[n // 4 % 4]}
        for n in range(STREAMS)
    ]


class Run:
    """One worker under streams. heard_s: when the last token came (monotonic)."""

    def __init__(self, http: httpx.AsyncClient, model: str) -> None:
        self.http = http
        self.model = model
        self.heard_s = 0.0

    async def answer(self, body: dict[str, Any], openai: bool) -> dict[str, str]:
        """The text of each choice."""
        texts: dict[str, str] = {}
        async for choice, text in self._openai(body) if openai else self._job(body):
            self.heard_s = time.monotonic()
            texts[choice] = texts.get(choice, "") + text
        return texts

    async def _openai(self, body: dict[str, Any]) -> AsyncIterator[tuple[str, str]]:
        sent = {**body, "model": self.model, "stream": True}
        async for event in self._events("POST", "/v1/completions", sent):
            assert "error" not in event, event
            for choice in event["choices"]:
                yield str(choice["index"]), choice["text"]

    async def _job(self, body: dict[str, Any]) -> AsyncIterator[tuple[str, str]]:
        body = {key: value for key, value in body.items() if key != "n"}
        job = await self._submitted(body)
        async for event in self._events("GET", f"/v1/jobs/{job}/stream"):
            assert event["type"] != "error", event
            if event["type"] in ("token", "end"):
                yield "0", event["t"] if event["type"] == "token" else event["text"]

    async def _submitted(self, body: dict[str, Any]) -> str:
        while True:
            answer = await self.http.post("/v1/jobs", json=body)
            if answer.status_code != 503:
                answer.raise_for_status()
                return str(answer.json()["job_id"])
            await asyncio.sleep(0.05)

    async def _events(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        while True:
            async with self.http.stream(method, path, json=body) as response:
                if response.status_code != 503:  # nothing was begun: the engine is away just now
                    response.raise_for_status()
                    async for line in response.aiter_lines():
                        if line.startswith("data: {"):
                            yield json.loads(line.removeprefix("data: "))
                    return
            await asyncio.sleep(0.05)


def engine_of(worker: int) -> int | None:
    """The engine's process id."""
    command = ["ps", "-o", "pid=", "-o", "args=", "--ppid", str(worker)]
    listed = subprocess.run(command, capture_output=True, text=True).stdout
    rows = [row.split(maxsplit=1) for row in listed.splitlines()]
    return next((int(pid) for pid, args in rows if "rbee_worker.process.main" in args), None)


@asynccontextmanager
async def worker(model: str, threads: int) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    """A worker that is ready, and its process id."""
    command = [sys.executable, "-m", "rbee_worker", "serve", "--local-mode", "--port", "0"]
    command += ["--model-ref", model, "--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            async with httpx.AsyncClient(base_url=url, timeout=None) as http:
                while (await http.get("/v1/ready")).status_code != 200:
                    await asyncio.sleep(0.1)
                yield http, process.pid
        finally:
            process.terminate()


async def measured(model: str, kills: int, threads: int, seed: int) -> dict[str, Any]:
    """Counts of answers, and seconds of recovery."""
    dice = random.Random(seed)
    bodies = requests()
    async with worker(model, threads) as (http, pid):
        run = Run(http, (await http.get("/v1/models")).json()["data"][0]["id"])
        alone = [await run.answer(body, n % 2 == 1) for n, body in enumerate(bodies)]
        counts = {"same": 0, "other": 0}
        over = False

        async def stream(n: int) -> None:
            while not over:
                same = await run.answer(bodies[n], n % 2 == 1) == alone[n]
                counts["same" if same else "other"] += 1

        streams = [asyncio.create_task(stream(n)) for n in range(STREAMS)]
        recovery: list[float] = []
        while len(recovery) < kills:
            await asyncio.sleep(dice.uniform(0.2, 1.5))
            engine = engine_of(pid)
            if engine is None:
                continue
            os.kill(engine, signal.SIGKILL)
            killed_s = time.monotonic()
            await asyncio.sleep(0.05)  # what was on its way when it died
            since = time.monotonic()
            while run.heard_s < since:
                await asyncio.sleep(0.005)
            recovery.append(run.heard_s - killed_s)
        over = True
        await asyncio.gather(*streams)
    recovery.sort()
    return {
        "model": model,
        "kills": kills,
        "streams": STREAMS,
        "answers": counts,
        "recovery_s": {
            "p50": round(recovery[len(recovery) // 2], 3),
            "p99": round(recovery[int(len(recovery) * 0.99) - 1], 3),
            "max": round(recovery[-1], 3),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    found = asyncio.run(measured(args.model, args.kills, args.threads, args.seed))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    raise SystemExit(found["answers"]["other"] > 0)


if __name__ == "__main__":
    main()
