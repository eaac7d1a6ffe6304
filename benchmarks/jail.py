"""A worker in a place as narrow as a container: `python -m benchmarks.jail` (as root, on Linux).

It runs as a user without rights; all of the file system is read-only, there is no home directory,
there may be as many descriptors as its connections need and 64 more, and memory may be 1.5 times
the plan (a control group of version 1 or 2, or else the address space of each process). In there it
must serve, refuse what is too much, and recover: from killed engines, from more connections than it
may have, and from each limit that is reached: another program in the group takes memory until the
system kills for it, and a second worker has fewer descriptors than its connections take. Prints one
JSON object; exit code 1 where it does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.live_clients import Clients
from benchmarks.live_worker import LiveWorker, live_worker
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.refs import resolve
from rbee_worker.config import Settings
from rbee_worker.loading.preflight import WORKSPACE_BYTES, preflight

CONNECTIONS, MORE_FILES, KILLS, STREAMS = 24, 64, 3, 16
FEW_FILES = 36  # of the second worker: its connections alone could take 24, itself takes 20
TOKENS = 4096  # that the cache holds
USER = 10001  # nobody in particular
STEP_BYTES = 24 << 20  # that each of the other programs takes
GROUPS = Path("/sys/fs/cgroup")
READ_ONLY = r"""cut -d' ' -f2 /proc/mounts | grep -Ev '^/(proc|sys|dev/pts)(/|$)' | sort -u |
while read -r place; do mount -o remount,bind,ro "$(printf '%b' "$place")"; done"""
ASKED = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 60, "ignore_eos": True}


def planned(model: str) -> int:
    """Bytes of the memory plan: weights, cache, and what a process needs beside them."""
    settings = Settings(model=model, backend="cpu", ctx=TOKENS, kv_tokens=TOKENS)
    plan = preflight(open_checkpoint(model), settings)
    return plan.weight_bytes + plan.state(settings, 1 << 50).nbytes + WORKSPACE_BYTES


@contextmanager
def group(limit: int) -> Iterator[Path | None]:
    """A control group with this memory limit; None where none can be made."""
    name = f"rbee-jail-{os.getpid()}"
    for parent, file in ((GROUPS / "memory", "memory.limit_in_bytes"), (GROUPS, "memory.max")):
        folder = parent / name
        with suppress(OSError):
            folder.mkdir()
            try:
                (folder / file).write_text(str(limit))
                yield folder
                return
            finally:
                folder.rmdir()
    yield None


def jail(limit: int, memory: Path | None, files: int, places: dict[Path, Path]) -> list[str]:
    """The command that runs another one in there. places: folders, by where they are seen."""
    steps = [f"echo $$ > {memory / 'cgroup.procs'}"] if memory is not None else []
    steps += [f"mount --rbind {shlex.join(map(str, (of, at)))}" for at, of in places.items()]
    steps.append(READ_ONLY)
    limits = [f"--nofile={files}:{files}", *([f"--as={limit}"] if memory is None else [])]
    rights = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
    rights += ["--inh-caps=-all", "--bounding-set=-all"]
    steps.append(
        f"exec env -u XDG_CACHE_HOME HOME=/nonexistent prlimit {shlex.join(limits)} "
        f'setpriv {shlex.join(rights)} "$@"'
    )
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(steps), "sh"]


async def tried(worker: LiveWorker, found: dict[str, Any], memory: Path | None) -> None:
    """Serve, refuse, recover."""
    name = (await worker.http.get("/v1/models")).json()["data"][0]["id"]
    clients = Clients(worker.http, name, random.Random(1), lambda: None)
    alone = await clients.job(ASKED)

    async def served() -> bool:
        answers = await asyncio.gather(*(clients.job(ASKED, cuts=True) for _ in range(STREAMS)))
        return all(answer == alone for answer in answers)

    found["user"] = user_of(worker.pid)
    found["serves"] = await served()
    too_long = await worker.http.post("/v1/infer", json={"prompt": "word " * TOKENS})
    too_large = await worker.http.post("/v1/infer", json={"prompt": "x" * (1 << 25)})
    found["refuses"] = [too_long.status_code, too_large.status_code]
    same = []
    for _ in range(KILLS):
        streams = asyncio.create_task(served())
        await asyncio.sleep(1)
        engine = worker.engine()
        if engine is not None:
            os.kill(engine, signal.SIGKILL)
        same.append(await streams)
    found["recovers from killed engines"] = same
    found["a flood of connections"] = await flooded(worker)
    found["recovers from a flood of connections"] = await served()
    if memory is not None:
        before = killed(memory)
        streams = asyncio.create_task(served())
        await starved(memory)
        found["processes killed as memory ran out"] = killed(memory) - before
        found["recovers from that"] = await streams and await served()
        found["engines lost"] = (await worker.metrics())["rbee_engine_restarts_total"]
    root = Path(f"/proc/{worker.pid}/root")
    places = ("", "tmp", "root", "dev/shm", "var/tmp")
    found["read-only"] = not any(writable(root / at) for at in places)


def user_of(pid: int) -> dict[str, str]:
    """Who a process is, and what it may."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    told = dict(row.split(":", 1) for row in rows if ":" in row)
    return {name: told[name].split()[0] for name in ("Uid", "Gid", "CapEff", "NoNewPrivs")}


async def flooded(worker: LiveWorker) -> list[int]:
    """Open more connections than there may be, each with a question; the fewest and the most
    descriptors that the worker had."""
    url = urlsplit(worker.url)
    before = worker.figures().files
    lines = []
    for _ in range(CONNECTIONS + MORE_FILES):
        line = socket.create_connection((url.hostname, url.port))
        line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        lines.append(line)
    await asyncio.sleep(1)
    most = worker.figures().files
    for line in lines:
        line.close()
    await asyncio.sleep(1)
    return [before, most]


async def starved(memory: Path) -> None:
    """Take memory in the control group until the system has killed a process for it. Many small
    processes take it: of all that are in the group, the engine is the largest."""
    before = killed(memory)
    program = f"""
import os, sys, time
while sys.stdin.readline():
    if os.fork() == 0:
        held = b"x" * {STEP_BYTES}
        print(flush=True)
        time.sleep(600)
"""
    join = f'echo $$ > {memory / "cgroup.procs"}; exec "$@"'
    other = await asyncio.create_subprocess_exec(
        "sh", "-ec", join, "sh", sys.executable, "-c", program,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert other.stdin is not None
    assert other.stdout is not None
    while killed(memory) == before:
        other.stdin.write(b"\n")
        with suppress(TimeoutError):  # it waits for memory
            await asyncio.wait_for(other.stdout.readline(), 2)
    os.killpg(other.pid, signal.SIGKILL)
    await other.wait()


def killed(memory: Path) -> int:
    """Processes of the control group that were killed as memory ran out."""
    for name in ("memory.oom_control", "memory.events"):
        with suppress(OSError):
            for row in (memory / name).read_text().splitlines():
                if row.startswith("oom_kill "):
                    return int(row.split()[1])
    return 0


async def with_few_descriptors(worker: LiveWorker) -> dict[str, Any]:
    """One with fewer than its connections take: what it cannot accept waits, and it goes on."""
    before = await worker.http.post("/v1/infer", json=ASKED)
    counts = await flooded(worker)
    after = await worker.http.post("/v1/infer", json=ASKED)
    same = before.json()["token_ids"] == after.json()["token_ids"]
    return {"descriptors": counts, "reached": counts[1] == FEW_FILES, "recovers": same}


def writable(folder: Path) -> bool:
    """Whether a file can be made there."""
    try:
        made = tempfile.NamedTemporaryFile(dir=folder)  # noqa: SIM115
    except OSError:
        return False
    made.close()
    return True


async def main() -> int:
    """Run it and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--no-group", dest="group", action="store_false", help="no control group")
    args = parser.parse_args()
    model = resolve(args.model)
    limit = planned(str(model)) * 3 // 2
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rbee-worker"
    with (
        group(limit) if args.group else nullcontext() as memory,
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryDirectory() as folder,
    ):
        # The user may not look into another's home: what it needs is shown to it elsewhere, and
        # of the home itself only the interpreter, if it lies there.
        Path(folder).chmod(0o755)
        places = {Path(folder) / "cache": cache, Path(folder) / "model": model.parent}
        home, shown = Path.home(), Path(folder) / "home"
        if Path(sys.base_prefix).is_relative_to(home):
            places[shown / Path(sys.base_prefix).relative_to(home)] = Path(sys.base_prefix)
        for place in places:
            place.mkdir(parents=True)
        if shown.exists():
            places[home] = shown
        options = ["--threads", str(args.threads), "--ctx", str(TOKENS), "--kv-tokens", str(TOKENS)]
        options += ["--max-connections", str(CONNECTIONS), "--cache-dir", f"{folder}/cache"]
        ref = f"{folder}/model/{model.name}"
        found: dict[str, Any] = {
            "limit": limit,
            "limited by": "address space" if memory is None else str(memory.parent),
            "descriptors": CONNECTIONS + MORE_FILES,
        }
        within = jail(limit, memory, CONNECTIONS + MORE_FILES, places)
        async with live_worker(ref, *options, within=within, errors=errors.fileno()) as worker:
            await tried(worker, found, memory)
        within = jail(limit, memory, FEW_FILES, places)
        async with live_worker(ref, *options, within=within, errors=errors.fileno()) as worker:
            found["with few descriptors"] = await with_few_descriptors(worker)
        if memory is not None:
            for name in ("memory.max_usage_in_bytes", "memory.peak", "memory.failcnt"):
                with suppress(OSError):
                    found[name] = int((memory / name).read_text())
        errors.seek(0)
        said = errors.read().decode(errors="replace").splitlines()
    found["log"] = said[-12:]
    good = (
        found["user"]
        == {"Uid": str(USER), "Gid": str(USER), "CapEff": "0" * 16, "NoNewPrivs": "1"},
        found["serves"],
        found["refuses"] == [400, 413],
        all(found["recovers from killed engines"]),
        found["recovers from a flood of connections"],
        memory is None or found["processes killed as memory ran out"] > 0,
        memory is None or found["engines lost"] > KILLS,
        memory is None or found["recovers from that"],
        found["with few descriptors"]["reached"],
        found["with few descriptors"]["recovers"],
        found["read-only"],
        not any(line.startswith("Traceback") for line in said),
    )
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
