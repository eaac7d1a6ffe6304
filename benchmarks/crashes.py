"""What a crash of the engine costs its streams: `python -m benchmarks.crashes --kills 100`.

Streams of one worker run without end, half of them through the job API, where the clients cut their
connections and resume them, half through the OpenAI API; greedy, drawn with a seed, two choices.
Meanwhile the engine's process is killed at random moments. Every answer is compared with that of an
undisturbed run. Recovery is the time from a kill to the first token after it, of any stream. Prints
one JSON object; exit code 1 where an answer differs. Several runs with another --seed each count
together: every recovery is in the object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from typing import Any

from benchmarks.live_clients import Clients, Wrong
from benchmarks.live_worker import live_worker, percentile

STREAMS, TOKENS = 16, 120
PROMPTS = ("Once upon a time", "The capital of France is", "Bees make honey because", "A list:")
STEP_S = 0.005


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

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.heard_s = 0.0
        self.counts = {"same": 0, "other": 0}
        self.faults: list[str] = []
        self.over = False

    def heard(self) -> None:
        self.heard_s = time.monotonic()

    async def answer(self, n: int, *, cuts: bool) -> dict[str, Any]:
        """Of the nth stream."""
        body = requests()[n]
        if n % 2:
            return await self.clients.completions(body)
        return await self.clients.job({k: v for k, v in body.items() if k != "n"}, cuts=cuts)

    async def stream(self, n: int, alone: dict[str, Any]) -> None:
        """The nth stream, again and again."""
        while not self.over:
            try:
                same = await self.answer(n, cuts=True) == alone
            except Wrong as fault:
                self.faults.append(str(fault))
                same = False
            self.counts["same" if same else "other"] += 1


async def measured(model: str, kills: int, threads: int, seed: int) -> dict[str, Any]:
    """Counts of answers, and seconds of recovery."""
    dice = random.Random(seed)
    async with live_worker(model, "--threads", str(threads)) as worker:
        name = (await worker.http.get("/v1/models")).json()["data"][0]["id"]
        run = Run(Clients(worker.http, name, dice, lambda: run.heard()))
        alone = await asyncio.gather(*(run.answer(n, cuts=False) for n in range(STREAMS)))
        streams = [asyncio.create_task(run.stream(n, alone[n])) for n in range(STREAMS)]
        recovery: list[float] = []
        while len(recovery) < kills:
            await asyncio.sleep(dice.uniform(0.2, 1.5))
            engine = worker.engine()
            if engine is None:
                continue
            os.kill(engine, signal.SIGKILL)
            killed_s = time.monotonic()
            await asyncio.sleep(0.05)  # what was on its way when it died
            since = time.monotonic()
            while run.heard_s < since:
                await asyncio.sleep(STEP_S)
                worker.children()  # raises if the worker itself has ended
            recovery.append(run.heard_s - killed_s)
        run.over = True
        await asyncio.gather(*streams)
    return {
        "model": model,
        "kills": kills,
        "streams": STREAMS,
        "resumed by clients": run.clients.resumed,
        "answers": run.counts,
        "faults": run.faults[:10],
        "recovery_s": {
            "p50": round(percentile(recovery, 0.5), 3),
            "p99": round(percentile(recovery, 0.99), 3),
            "max": round(max(recovery), 3),
            "all": [round(each, 2) for each in sorted(recovery)],
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
