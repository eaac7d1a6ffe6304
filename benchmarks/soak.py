"""A worker under everything at once, for a long time: `python -m benchmarks.soak --minutes 30`.

Clients of every API ask, cancel, leave, read slowly, resume and send nonsense, while the engine is
killed, stopped and hung, helper processes are killed, the clock jumps and the journal's disk fills
up. Every finished answer is compared with the same request's answer alone, before all this. In the
second half no engine is ended, so that the memory of one that lives long can be seen. At the end,
when nothing is asked any more, everything must be back where it was. Prints one table and one plot;
exit code 1 where something is not as it must be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.live_worker import Figures, LiveWorker, figures, live_worker, percentile
from benchmarks.soak_load import Load
from benchmarks.soak_plot import plot, slope
from benchmarks.soak_trouble import STEP_TIMEOUT_S, Trouble, clock, small_disk
from rbee_worker.config import OPTIONS

SAMPLE_S = 2.0
WARM_UP_S = 60.0  # of everything, before the first look at what it holds
CALM_S = 20.0  # after the load: what is closed late is closed by then
POOL = 3 + min(32, (os.cpu_count() or 1) + 4)  # threads that the server may have in all
WARM = 1 / 3  # of the time, before memory is looked at
MOST_MB_PER_HOUR = 1.0
KEEP_S = 20  # a job is kept for so long: what is kept is the same from early on
LEFT = ("rbee_kv_blocks_used", "rbee_queue_depth", "rbee_running", "rbee_jobs_live")


@dataclass
class Samples:
    """Of the server and of the engine: (seconds, figures)."""

    server: list[tuple[float, Figures]] = field(default_factory=list)
    engine: list[tuple[float, Figures]] = field(default_factory=list)
    children: list[int] = field(default_factory=list)


async def sampled(worker: LiveWorker, samples: Samples, began_s: float) -> None:
    """Take samples until cancelled."""
    while True:
        at = time.monotonic() - began_s
        samples.server.append((at, worker.figures()))
        samples.children.append(len(worker.children()))
        engine = worker.engine()
        if engine is not None:
            with suppress(OSError, KeyError):  # it has just been ended
                samples.engine.append((at, figures(engine)))
        await asyncio.sleep(SAMPLE_S)


async def calm(worker: LiveWorker) -> tuple[dict[str, float], Counter[str]]:
    """What a worker holds when nothing is asked of it, and what its descriptors are of."""
    until = time.monotonic() + CALM_S
    while time.monotonic() < until:
        await asyncio.sleep(1)
    while not await worker.ready():
        await asyncio.sleep(0.1)
    told = await worker.metrics()
    await asyncio.sleep(1)  # the connection of that question is closed too
    server = worker.figures()
    held = {
        **{name.removeprefix("rbee_"): told.get(name, 0.0) for name in LEFT},
        "descriptors": server.files,
        "threads": server.threads,
        "children": len(worker.children()),
    }
    return held, worker.opened()


async def soak(args: argparse.Namespace, errors: Path) -> dict[str, Any]:
    """Run it; returns what is printed as JSON."""
    dice = random.Random(args.seed)
    folder = errors.parent
    faked = clock(folder) if args.clock else None
    async with small_disk() as disk:
        has_journal = any(option.field == "journal" for option in OPTIONS)
        journal = disk if has_journal else None
        options = ["--threads", str(args.threads), "--step-timeout", str(STEP_TIMEOUT_S)]
        options += ["--speculate", "ngram", "--keep-jobs-s", str(KEEP_S), "--keep-jobs", "100"]
        options += ["--journal", str(journal)] if journal is not None else []
        env = faked.env if faked is not None else {}
        with errors.open("wb") as log:
            program = "rbee_worker" if faked is None else "benchmarks.soak_worker"
            async with live_worker(
                args.model, *options, program=program, env=env, errors=log
            ) as worker:
                models = (await worker.http.get("/v1/models")).json()
                load = Load(worker, models["data"][0]["id"], dice)
                trouble = Trouble(worker, dice, faked, journal)
                found = await _disturbed(worker, load, trouble, args.minutes * 60)
    found["left out"] = [
        *(["clock jumps: libfaketime is not installed"] if faked is None else []),
        *(["journal: no such option, or no file system can be mounted"] * (journal is None)),
        *(["embeddings: the model makes none"] if "embeddings" not in load.kinds else []),
    ]
    return found


async def _disturbed(
    worker: LiveWorker, load: Load, trouble: Trouble, seconds: float
) -> dict[str, Any]:
    await load.prepare()
    # Pools of threads and the like grow once.
    tasks = [*load.tasks(), asyncio.create_task(trouble.run(lambda: load.over, lambda: True))]
    await asyncio.sleep(min(seconds / 6, WARM_UP_S))
    await trouble.once()
    load.over = True
    await asyncio.gather(*tasks)
    before, opened = await calm(worker)
    load.over = False
    samples, began_s = Samples(), time.monotonic()
    in_shm = set(os.listdir("/dev/shm"))
    sampling = asyncio.create_task(sampled(worker, samples, began_s))

    def now() -> float:
        return time.monotonic() - began_s

    tasks = load.tasks()
    making = asyncio.create_task(trouble.run(lambda: load.over, lambda: now() < seconds / 2))
    while now() < seconds and not any(task.done() for task in (*tasks, making)):
        await asyncio.sleep(0.5)
    load.over = True
    await asyncio.gather(*tasks, making)
    sampling.cancel()
    after, still_opened = await calm(worker)
    ended = sum(load.checked.counts.values())
    lives = [(at, float(f.rss)) for at, f in samples.engine if at > seconds / 2 * (1 + WARM)]
    warm = [(at, float(f.rss)) for at, f in samples.server if at > seconds * WARM]
    return {
        "minutes": round(now() / 60, 1),
        "answers": dict(load.checked.counts),
        "refusals": dict(load.checked.told),
        "streams resumed": load.clients.resumed,
        "troubles": dict(trouble.counts),
        "restarts": (await worker.metrics())["rbee_engine_restarts_total"],
        "recovery_s": {
            f"p{int(share * 100)}": round(percentile(trouble.recoveries or [0.0], share), 2)
            for share in (0.5, 0.99)
        },
        "wrong": len(load.checked.wrong),
        "wrong ones": load.checked.wrong[:20],
        "of": ended,
        "before": before,
        "after": after,
        "descriptors that are new": dict(still_opened - opened),
        "left in /dev/shm": sorted(set(os.listdir("/dev/shm")) - in_shm),
        "server_mb_per_hour": round(slope(warm) * 3600 / 1e6, 2),
        "engine_mb_per_hour": round(slope(lives) * 3600 / 1e6, 2),
        "plots": [
            plot("server, MB", [(at, f.rss / 1e6) for at, f in samples.server]),
            plot("engine, MB", [(at, f.rss / 1e6) for at, f in samples.engine]),
            plot("server, descriptors", [(at, f.files) for at, f in samples.server]),
        ],
    }


def faults_of(found: dict[str, Any]) -> list[str]:
    """What is not as it must be."""
    faults = [f"{found['wrong']} of {found['of']} answers are wrong"] if found["wrong"] else []
    faults += [
        f"{name}: {found['before'][name]:g} before, {now:g} after"
        for name, now in found["after"].items()
        if now > found["before"][name] and not (name == "threads" and now <= POOL)
    ]
    if found["left in /dev/shm"]:
        faults.append(f"left in /dev/shm: {', '.join(found['left in /dev/shm'])}")
    return faults


def table(found: dict[str, Any]) -> str:
    """The result for people."""
    rows = [
        (name, json.dumps(value) if isinstance(value, dict | list) else str(value))
        for name, value in found.items()
        if name not in ("plots", "wrong ones")
    ]
    rows += [("wrong", one) for one in found["wrong ones"]]
    lines = [f"{name:<20} {value}" for name, value in rows]
    return "\n".join([*lines, "", *found["plots"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-clock", dest="clock", action="store_false", help="no clock jumps")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "worker.log"
        try:
            found = asyncio.run(soak(args, errors))
        except RuntimeError:  # the worker has ended
            sys.stdout.write(errors.read_text(errors="replace")[-4000:])
            raise
        said = errors.read_text(errors="replace").splitlines()
    traces = [line for line in said if line.startswith("Traceback")]
    faults = faults_of(found) + ([f"{len(traces)} tracebacks in its log"] if traces else [])
    # Of a short run no slope can be told: the machine's noise is larger.
    if args.minutes >= 20 and found["server_mb_per_hour"] > MOST_MB_PER_HOUR:
        faults.append(f"the server grows by {found['server_mb_per_hour']} MB an hour")
    sys.stdout.write(table(found) + "\n\n" + "\n".join(faults or ["all is as it must be"]) + "\n")
    if faults:
        sys.stdout.write("\n".join(["", "the end of the worker's log:", *said[-20:]]) + "\n")
    if args.json is not None:
        args.json.write_text(json.dumps(found | {"faults": faults}, indent=1) + "\n")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
