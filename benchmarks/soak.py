"""A worker under everything at once, for a long time: `python -m benchmarks.soak --minutes 30`.

Clients of every API ask, cancel, leave, read slowly, resume and send nonsense, while the engine is
killed, stopped and hung, helper processes are killed, the clock jumps and the journal's disk fills
up. Every engine that is lost is told by its reason, and the log's lines of those that no trouble
ended: on a machine with much other work, a step may take longer than the time limit that it has
here. Every finished answer is compared with the same request's answer alone, before all this. After
a third of its time no engine is ended any more, so that the memory of one that lives long can be
seen. At the end, when nothing is asked any more, everything must be back where it was. It goes on
beyond its time until everything has happened at least once. Prints one table and plots; exit code 1
where something is not as it must be.

Nothing that is judged depends on how fast the machine is: where a time says when to stop waiting,
it only delays a verdict.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.adapters import write_adapter
from benchmarks.live_worker import LiveWorker, live_worker, percentile
from benchmarks.soak_load import ADAPTER, CACHE_TOKENS, Load
from benchmarks.soak_plot import plot
from benchmarks.soak_trouble import STEP_TIMEOUT_S, Trouble, clock, small_disk
from benchmarks.soak_watch import (
    KEPT,
    PATIENCE_S,
    Samples,
    at_rest,
    grown,
    is_more,
    kept_mb_per_hour,
    mb_per_hour,
    minutes,
    own_shm,
    warm_engine,
    warm_server,
)

MOST_MB_PER_HOUR = 1.0
LONG_MINUTES = 20  # a run of at least this is judged by its memory: shorter ones see too little
LONGEST = 4  # times its minutes, until what has not happened is a fault
UNEXPLAINED = "engines that no trouble ended, by reason"
# Reasons for which no engine may be lost unless it is made to: not the machine's, as others are.
OURS = ("crashed", "failed")
RANK, SCALE = 8, 200  # of the adapter: it changes answers


async def soak(args: argparse.Namespace, errors: Path) -> dict[str, Any]:
    """Run it; returns what is printed as JSON."""
    dice = random.Random(args.seed)
    folder = errors.parent
    faked = clock(folder) if args.clock else None
    (folder / "adapter").mkdir()
    write_adapter(args.model, RANK, folder / "adapter")
    within = own_shm()
    async with small_disk() as journal:
        options = ["--threads", str(args.threads), "--step-timeout", str(STEP_TIMEOUT_S)]
        options += ["--speculate", "ngram", "--keep-jobs-s", "86400", "--keep-jobs", str(KEPT)]
        options += ["--kv-tokens", str(CACHE_TOKENS)]
        options += ["--lora", f"{ADAPTER}={folder / 'adapter'},scale={SCALE}"]
        options += ["--journal", str(journal)] if journal is not None else []
        env = faked.env if faked is not None else {}
        program = "rbee_worker" if faked is None else "benchmarks.soak_worker"
        with errors.open("wb") as log:
            running = live_worker(
                args.model, *options, program=program, within=within, env=env, errors=log
            )
            async with running as worker:
                models = (await worker.http.get("/v1/models")).json()
                load = Load(worker, models["data"][0]["id"], dice)
                trouble = Trouble(worker, dice, faked, journal)
                found = await _disturbed(worker, load, trouble, args.minutes * 60)
    found["left out"] = [
        *(["clock jumps: libfaketime is not installed"] if faked is None else []),
        *(["full disk: no file system can be mounted"] if journal is None else []),
        *(["/dev/shm: no namespace can be made"] if not within else []),
    ]
    return found


async def _warmed_up(load: Load, trouble: Trouble) -> None:
    """Pools of threads and the like grow once."""
    tasks = load.tasks()
    await trouble.once()
    load.over = True
    await asyncio.gather(*tasks)
    load.over = False


async def _disturbed(
    worker: LiveWorker, load: Load, trouble: Trouble, seconds: float
) -> dict[str, Any]:
    await load.prepare()
    await _warmed_up(load, trouble)
    await load.again()
    before = await at_rest(worker)
    load.begin()
    samples, began_s = Samples(), time.monotonic()
    sampling = asyncio.create_task(samples.take(worker, load.checked, began_s))
    calm_s: float | None = None  # since when no engine is ended

    def now() -> float:
        return time.monotonic() - began_s

    def kills() -> bool:
        nonlocal calm_s
        if calm_s is None and now() >= seconds / 3 and not trouble.missing():
            calm_s = now()
        return calm_s is None

    def enough() -> bool:
        if now() >= seconds * LONGEST:
            return True
        long = (
            seconds < LONG_MINUTES * 60 or minutes(warm_engine(samples.engine)) * 60 > seconds / 4
        )
        done = not load.missing() and not trouble.missing_in_calm()
        return now() >= seconds and not kills() and done and long

    tasks = load.tasks()
    making = asyncio.create_task(trouble.run(lambda: load.over, kills))
    while not enough() and not any(task.done() for task in (*tasks, making)):
        await asyncio.sleep(0.5)
    load.over = True
    await asyncio.gather(*tasks)
    ended, endless = await asyncio.wait({making}, timeout=PATIENCE_S)
    for task in ended:
        task.result()
    making.cancel()
    sampling.cancel()
    await load.again()
    after = await at_rest(worker, before)
    lost, ended = await worker.labelled("rbee_engines_lost_total"), trouble.ended()
    warm, lived = warm_server(samples.server), warm_engine(samples.engine)
    return {
        "minutes": round(now() / 60, 1),
        "answers": dict(load.checked.counts),
        "refusals and ends": dict(load.checked.told),
        "streams resumed": load.clients.resumed,
        "troubles": dict(trouble.counts),
        "troubles since engines are not ended any more": dict(trouble.calm_counts),
        "never happened": trouble.missing() + trouble.missing_in_calm() + load.missing(),
        "never ended": [trouble.current] if endless else [],
        "restarts": (await worker.metrics())["rbee_engine_restarts_total"],
        "engines lost, by reason": dict(+lost),
        "of these ended by troubles, with those before it began": dict(+ended),
        UNEXPLAINED: dict(lost - ended),
        "recovery_s": {
            f"p{int(share * 100)}": round(percentile(trouble.recoveries or [0.0], share), 2)
            for share in (0.5, 0.99)
        },
        "wrong": len(load.checked.wrong),
        "wrong ones": load.checked.wrong[:20],
        "of": sum(load.checked.counts.values()),
        "before": before.figures,
        "after": after.figures,
        "descriptors that are new": dict(after.opened - before.opened),
        "left in /dev/shm": sorted({*after.in_shm} - {*before.in_shm}),
        "server_mb_per_hour": mb_per_hour(warm),
        "server: minutes before it was warm, and of that slope": [
            round(warm[0].at / 60, 1) if warm else None,
            minutes(warm),
        ],
        "server: MB an hour of what finished jobs take": kept_mb_per_hour(warm),
        "server: mappings that grew": grown(warm),
        "engine_mb_per_hour": mb_per_hour(lived),
        "engine: minutes of that slope": minutes(lived),
        "engine: mappings that grew": grown(lived),
        "plots": [
            plot("server, MB", [(s.at, s.mb) for s in samples.server]),
            plot("finished jobs that it keeps, MB", [(s.at, s.kept / 1e6) for s in samples.server]),
            plot("engine, MB", [(s.at, s.mb) for s in samples.engine]),
            plot("server, descriptors", [(s.at, s.figures.files) for s in samples.server]),
        ],
    }


def faults_of(found: dict[str, Any], asked_minutes: float) -> list[str]:
    """What is not as it must be."""
    faults = [f"{found['wrong']} of {found['of']} answers are wrong"] if found["wrong"] else []
    faults += [
        f"{name}: {found['before'][name]:g} before, {now:g} after"
        for name, now in found["after"].items()
        if is_more(name, now, found["before"][name])
    ]
    for what in ("never happened", "never ended"):
        faults += [f"it {what}: {name}" for name in found[what]]
    faults += [
        f"engines that were lost by themselves ({reason}): {found[UNEXPLAINED][reason]}"
        for reason in OURS
        if reason in found[UNEXPLAINED]
    ]
    if found["left in /dev/shm"]:
        faults.append(f"left in /dev/shm: {', '.join(found['left in /dev/shm'])}")
    if asked_minutes >= LONG_MINUTES:
        faults += [
            f"the {process} grows by {found[f'{process}_mb_per_hour']} MB an hour"
            for process in ("server", "engine")
            if found[f"{process}_mb_per_hour"] > MOST_MB_PER_HOUR
        ]
        faults += [f"left out: {what}" for what in found["left out"]]
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
    found["what its log says of them"] = [
        line
        for line in said
        if "Starting another engine" in line and any(f"({r})" in line for r in found[UNEXPLAINED])
    ]
    traces = [line for line in said if line.startswith("Traceback")]
    faults = faults_of(found, args.minutes)
    faults += [f"{len(traces)} tracebacks in its log"] if traces else []
    sys.stdout.write(table(found) + "\n\n" + "\n".join(faults or ["all is as it must be"]) + "\n")
    if faults:
        sys.stdout.write("\n".join(["", "the end of the worker's log:", *said[-20:]]) + "\n")
    if args.json is not None:
        args.json.write_text(json.dumps(found | {"faults": faults}, indent=1) + "\n")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
