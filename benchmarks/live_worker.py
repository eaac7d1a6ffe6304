"""A worker in a process of its own, for benchmarks that disturb it, and what the system says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

ENGINE = "rbee_worker.process.main"


@dataclass(frozen=True)
class Figures:
    """Of one process: resident bytes (no pages of files), open descriptors, threads."""

    rss: int
    files: int
    threads: int


class LiveWorker:
    """A worker that serves. http: to it, on any number of connections."""

    def __init__(self, pid: int, url: str, http: httpx.AsyncClient) -> None:
        self.pid, self.url, self.http = pid, url, http

    def children(self) -> dict[int, str]:
        """The server's children that run, with their command lines. Raises RuntimeError if the
        server itself has ended."""
        if not _command(self.pid):
            raise RuntimeError("the worker has ended")
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                listed += (task / "children").read_text().split()
        found = {int(pid): _command(int(pid)) for pid in listed}
        return {pid: command for pid, command in found.items() if command}

    def engine(self) -> int | None:
        """The engine's process id."""
        return next((pid for pid, args in self.children().items() if ENGINE in args), None)

    def helpers(self, script: str) -> list[int]:
        """Process ids of the children that run `script`: chat templates, grammars."""
        return [pid for pid, args in self.children().items() if script in args]

    def figures(self) -> Figures:
        """Of the server."""
        return figures(self.pid)

    def opened(self) -> Counter[str]:
        """What the server's descriptors are of, by kind or path."""
        found: Counter[str] = Counter()
        for number in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found[number.readlink().as_posix().partition(":[")[0]] += 1
        return found

    async def ready(self) -> bool:
        return (await self.http.get("/v1/ready")).status_code == 200

    async def metrics(self) -> dict[str, float]:
        """Every sample without labels of /metrics."""
        rows = (row.split() for row in (await self.http.get("/metrics")).text.splitlines())
        return {row[0]: float(row[1]) for row in rows if len(row) == 2 and "{" not in row[0]}

    async def labelled(self, name: str) -> Counter[str]:
        """The samples of a counter with one label, by the label's value."""
        told = (await self.http.get("/metrics")).text
        rows = re.findall(rf'^{name}{{\w+="([^"]*)"}} (\S+)$', told, re.M)
        return Counter({value: int(float(count)) for value, count in rows})


def figures(pid: int) -> Figures:
    """What the system says of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    of = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    rss = sum(int(of[name].split()[0]) for name in ("RssAnon", "RssShmem"))
    return Figures(rss * 1024, len(os.listdir(f"/proc/{pid}/fd")), int(of["Threads"]))


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


@asynccontextmanager
async def live_worker(
    model: str,
    *options: str,
    program: str = "rbee_worker",
    within: Sequence[str] = (),
    env: dict[str, str] | None = None,
    errors: IO[bytes] | int = subprocess.DEVNULL,
) -> AsyncIterator[LiveWorker]:
    """A worker that is ready; it is ended afterwards. program: the module that is run;
    within: a command that runs the worker's."""
    command = [*within, sys.executable, "-m", program, "serve", "--local-mode", "--port", "0"]
    command += ["--model-ref", model, *options]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RBEE_API")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, env={**inherited, **(env or {})}
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            # A connection for each request: one that waits for another would count as open.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as http:
                worker = LiveWorker(process.pid, url, http)
                while not await worker.ready():
                    await asyncio.sleep(0.1)
                yield worker
        finally:
            process.terminate()


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that `share` of all do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]
