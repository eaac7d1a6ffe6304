"""A worker in a place as narrow as a container: `python -m benchmarks.jail` (as root, on Linux).

All of the file system is read-only, there is no home directory, there may be as many descriptors as
its connections need and 64 more, and memory may be 1.5 times the plan (a control group of version 1
or 2, or else the address space of each process). In there it must serve, refuse what is too much,
and recover: from killed engines and from more connections than it may have. Prints one JSON object;
exit code 1 where it does not.
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
from contextlib import contextmanager, suppress
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
TOKENS = 4096  # that the cache holds
GROUPS = Path("/sys/fs/cgroup")
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


def jail(limit: int, memory: Path | None) -> list[str]:
    """The command that runs another one in there."""
    steps = [f"echo $$ > {memory / 'cgroup.procs'}"] if memory is not None else []
    mounts = [row.split()[1] for row in Path("/proc/mounts").read_text().splitlines()]
    places = [place for place in mounts if not place.startswith(("/proc", "/sys", "/dev/pts"))]
    steps += [f"mount -o remount,bind,ro {shlex.quote(place)}" for place in places]
    files = CONNECTIONS + MORE_FILES
    limits = [f"--nofile={files}:{files}", *([f"--as={limit}"] if memory is None else [])]
    steps.append(f'exec env -u XDG_CACHE_HOME HOME=/nonexistent prlimit {shlex.join(limits)} "$@"')
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(steps), "sh"]


async def tried(worker: LiveWorker, found: dict[str, Any]) -> None:
    """Serve, refuse, recover."""
    name = (await worker.http.get("/v1/models")).json()["data"][0]["id"]
    clients = Clients(worker.http, name, random.Random(1), lambda: None)
    alone = await clients.job(ASKED)

    async def served() -> bool:
        answers = await asyncio.gather(*(clients.job(ASKED, cuts=True) for _ in range(STREAMS)))
        return all(answer == alone for answer in answers)

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
    url = urlsplit(worker.url)
    lines = [
        socket.create_connection((url.hostname, url.port)) for _ in range(CONNECTIONS + MORE_FILES)
    ]
    await asyncio.sleep(1)
    for line in lines:
        line.close()
    await asyncio.sleep(1)
    found["recovers from a flood of connections"] = await served()
    root = Path(f"/proc/{worker.pid}/root")
    found["read-only"] = not any(writable(root / at) for at in ("", "tmp", "root", "dev/shm"))


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
    args = parser.parse_args()
    model = str(resolve(args.model))
    limit = planned(model) * 3 // 2
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rbee-worker"
    options = ["--threads", str(args.threads), "--ctx", str(TOKENS), "--kv-tokens", str(TOKENS)]
    options += ["--max-connections", str(CONNECTIONS), "--cache-dir", str(cache)]
    with group(limit) as memory, tempfile.TemporaryFile() as errors:
        found: dict[str, Any] = {
            "limit": limit,
            "limited by": "address space" if memory is None else str(memory.parent),
            "descriptors": CONNECTIONS + MORE_FILES,
        }
        within = jail(limit, memory)
        async with live_worker(model, *options, within=within, errors=errors.fileno()) as worker:
            await tried(worker, found)
        if memory is not None:
            for name in ("memory.max_usage_in_bytes", "memory.peak", "memory.failcnt"):
                with suppress(OSError):
                    found[name] = int((memory / name).read_text())
        errors.seek(0)
        said = errors.read().decode(errors="replace").splitlines()
    found["log"] = said[-8:]
    good = (
        found["serves"],
        found["refuses"] == [400, 413],
        all(found["recovers from killed engines"]),
        found["recovers from a flood of connections"],
        found["read-only"],
        not any(line.startswith("Traceback") for line in said),
    )
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
