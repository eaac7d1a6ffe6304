"""How soon an engine is back, and what holding its weights in shared memory costs:
`python -m benchmarks.restart MODEL`.

For each way of holding weights: seconds until the first engine is ready, until the one that follows
is (from the kill), and tokens a second of one sequence, in turns; best_token_ms is the shortest
time between two tokens, for a machine that does other things too. Prints medians as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from itertools import pairwise
from typing import Any

from rbee_worker.config import Settings
from rbee_worker.process.host import ProcessHost
from rbee_worker.session.client import EngineClient
from rbee_worker.types import End, Request, Token

WAYS = ("kept", "small", "own")
STEP_S = 0.002


async def once(settings: Settings, way: str, tokens: int) -> dict[str, float]:
    """One worker of this way: its figures."""
    os.environ["RBEE_TEST_WEIGHTS"] = way
    host = ProcessHost("benchmarks.restart_engine")
    client = EngineClient(settings, host)
    began_s = time.monotonic()
    client._engine.begin()
    try:
        await client.ready()
        first_s = time.monotonic() - began_s
        params = {"max_tokens": tokens, "ignore_eos": True, "temperature": 0, "seed": 1}
        times: list[float] = []
        async for event in client.generate(Request(id="a", prompt="once", params=params)):
            if isinstance(event, Token | End):
                times.append(time.monotonic())
        assert host.pid is not None
        os.kill(host.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        while client.restarts == 0 or client.state != "ready":
            await asyncio.sleep(STEP_S)
        back_s = time.monotonic() - killed_s
        load = client.info.load_s if client.info is not None else {}
        return {
            "first_s": first_s,
            "back_s": back_s,
            "back_weights_s": load.get("weights", 0.0),
            "tok_s": (tokens - 1) / (times[-1] - times[0]),
            "best_token_ms": min(b - a for a, b in pairwise(times[:-1])) * 1e3,
        }
    finally:
        await client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    settings = Settings(model=args.model, backend="cpu", threads=args.threads, ctx=1024)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way in WAYS:
            found[way].append(asyncio.run(once(settings, way, args.tokens)))
    told: dict[str, Any] = {
        way: {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}
        for way, runs in found.items()
    }
    sys.stdout.write(json.dumps({"model": args.model, "rounds": args.rounds, **told}, indent=1))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
