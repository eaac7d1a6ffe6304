"""What `benchmarks.soak` sees of a worker from outside: its processes' figures over time, from when
on they should not grow, and what the worker holds when nothing is asked of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.live_worker import Figures, LiveWorker, figures
from benchmarks.soak_load import CLIENTS, Checked
from benchmarks.soak_plot import Series, slope

SAMPLE_S = 2.0
MAPPED_EVERY = 30  # samples: then a process's mappings are read too
HUGE = "in huge pages"
LEAST_BYTES = 100_000  # of a mapping's growth, to be told
KEPT = 200  # jobs that the worker keeps: at most that many, however long ago they have ended
TURNS = 2  # how often all kept jobs were replaced by others before the server is warm
ANSWERS = 20  # of each kind of request, before a process is warm
CALM_S = 5.0  # without any change: the worker is at rest
PATIENCE_S = 300.0  # until it is; half-sent requests have a time limit, too
LEFT = ("rbee_kv_blocks_used", "rbee_queue_depth", "rbee_running", "rbee_jobs_live")
SHM = "dev/shm"
POOL = 3 + min(32, (os.cpu_count() or 1) + 4)  # threads that the server may have in all


@dataclass(frozen=True)
class Sample:
    """at: seconds; jobs: that were asked for; answers: fewest of any kind of request, so far; pid:
    whose figures these are; kept: bytes that finished jobs take, as the worker counts them; mapped:
    resident bytes by mapping, if they were read."""

    at: float
    jobs: int
    answers: int
    pid: int
    figures: Figures
    kept: float = 0.0
    mapped: dict[str, int] = field(default_factory=dict)

    @property
    def mb(self) -> float:
        return self.figures.rss / 1e6


@dataclass
class Samples:
    """Of the server and of its engines."""

    server: list[Sample] = field(default_factory=list)
    engine: list[Sample] = field(default_factory=list)

    async def take(self, worker: LiveWorker, checked: Checked, began_s: float) -> None:
        """Take samples until cancelled."""
        while True:
            kept = (await worker.metrics())["rbee_jobs_kept_bytes"]
            at = time.monotonic() - began_s
            answers = min(checked.counts[kind] for kind in CLIENTS)
            mapped = len(self.server) % MAPPED_EVERY == 0
            for pid, samples in ((worker.pid, self.server), (worker.engine(), self.engine)):
                if pid is not None:
                    with suppress(OSError, KeyError):  # it has just been ended
                        maps = mappings(pid) if mapped else {}
                        now = figures(pid)
                        samples.append(Sample(at, checked.jobs, answers, pid, now, kept, maps))
            await asyncio.sleep(SAMPLE_S)


def warm_server(samples: list[Sample]) -> list[Sample]:
    """The samples since all that the server keeps was full and replaced, and every kind of request
    was answered often: what it holds from then on is what it needs."""
    return [s for s in samples if s.jobs >= (1 + TURNS) * KEPT and s.answers >= ANSWERS]


def warm_engine(samples: list[Sample]) -> list[Sample]:
    """The samples of the last engine since it has answered every kind of request often."""
    if not samples:
        return []
    own = [s for s in samples if s.pid == samples[-1].pid]
    return [s for s in own if s.answers - own[0].answers >= ANSWERS]


def mb_per_hour(samples: list[Sample]) -> float:
    """How fast resident memory grows."""
    series: Series = [(s.at, s.mb) for s in samples]
    return round(slope(series) * 3600, 2)


def kept_mb_per_hour(samples: list[Sample]) -> float:
    """How fast what finished jobs take grows: so much of the server's growth is the load's."""
    return round(slope([(s.at, s.kept / 1e6) for s in samples]) * 3600, 2)


def grown(samples: list[Sample]) -> list[str]:
    """The mappings that are larger at the end than at the beginning, the largest growth first."""
    told = [s.mapped for s in samples if s.mapped]
    if len(told) < 2:
        return []
    first, last = told[0], told[-1]
    by = {name: size - first.get(name, 0) for name, size in last.items()}
    most = sorted((size, name) for name, size in by.items() if size >= LEAST_BYTES)
    return [f"{name}: {size / 1e6:.2f} MB more" for size, name in reversed(most)]


def mappings(pid: int) -> dict[str, int]:
    """Resident bytes of a process's mappings that are no pages of files, by their place and name,
    and of all together in huge pages: the kernel makes these later on, and fills up what is empty.
    """
    found: dict[str, int] = {HUGE: 0}
    name, counts = "", ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, *rest = line.split()
        if not key.endswith(":"):
            name = " ".join([key.partition("-")[0], *rest[4:]])
            counts = "Rss:" if "/memfd:" in name else "Anonymous:"
        elif key == counts and rest[0] != "0":
            found[name] = int(rest[0]) * 1024
        elif key == "AnonHugePages:":
            found[HUGE] += int(rest[0]) * 1024
    return found


def minutes(samples: list[Sample]) -> float:
    """From the first to the last."""
    return round((samples[-1].at - samples[0].at) / 60, 1) if samples else 0.0


@dataclass
class Held:
    """What a worker holds: figures by name, what its descriptors are of, and names in /dev/shm."""

    figures: dict[str, float]
    opened: Counter[str]
    in_shm: list[str]

    def beyond(self, base: Held) -> bool:
        """Whether anything is more than it was."""
        return any(is_more(name, now, base.figures[name]) for name, now in self.figures.items())


def is_more(name: str, now: float, before: float) -> bool:
    """Whether a figure is more than before; a pool's threads begin when they are first needed."""
    return now > before and not (name == "threads" and now <= POOL)


async def held(worker: LiveWorker) -> Held:
    """What it holds now."""
    told = await worker.metrics()
    await asyncio.sleep(1)  # the connection of that question is closed too
    server = worker.figures()
    found = {
        **{name.removeprefix("rbee_"): told.get(name, 0.0) for name in LEFT},
        "descriptors": server.files,
        "threads": server.threads,
        "children": len(worker.children()),
    }
    shm = Path(f"/proc/{worker.pid}/root") / SHM
    return Held(found, worker.opened(), sorted(os.listdir(shm)) if shm.exists() else [])


async def at_rest(worker: LiveWorker, base: Held | None = None) -> Held:
    """What the worker holds once that does not change any more, and is no more than `base`; after
    `PATIENCE_S` whatever it holds then. Nothing is asked of it meanwhile."""
    until = time.monotonic() + PATIENCE_S
    while not await worker.ready():
        await asyncio.sleep(0.2)
    before = await held(worker)
    since = time.monotonic()
    while time.monotonic() < until:
        now = await held(worker)
        if now.figures != before.figures:
            before, since = now, time.monotonic()
        over = base is not None and now.beyond(base)
        if not over and time.monotonic() - since >= CALM_S:
            return now
    return before


def own_shm() -> list[str]:
    """A command that runs another one with a /dev/shm of its own, where other programs leave
    nothing; empty where that cannot be."""
    if shutil.which("unshare") is None:
        return []
    mount = f'mount -t tmpfs tmpfs /{SHM}; exec "$@"'
    within = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", mount, "sh"]
    return within if subprocess.run([*within, "true"], capture_output=True).returncode == 0 else []
