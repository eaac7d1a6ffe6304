"""`Reloading`: files that may change while the worker runs. They are read again when they do, and
on SIGHUP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rbee_worker.errors import UsageError
from rbee_worker.observe.log import fields, logger

EVERY_S = 2.0

log = logger("reload")

Stamp = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Watched:
    """what: a word for the log. files: whose change is noticed, none: only SIGHUP counts."""

    what: str
    files: Sequence[str]
    reload: Callable[[], None]


class Reloading:
    """Keeps `watched` up to date; what cannot be read stays as it was, with one line."""

    def __init__(self, watched: Sequence[Watched]) -> None:
        self.watched = watched
        self._stamps = [_stamp(each.files) for each in watched]

    def all(self) -> None:
        """SIGHUP."""
        for place in range(len(self.watched)):
            self._reload(place)

    async def run(self) -> None:
        """Look for changes, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            for place, each in enumerate(self.watched):
                if _stamp(each.files) != self._stamps[place]:
                    self._reload(place)

    def _reload(self, place: int) -> None:
        each = self.watched[place]
        self._stamps[place] = _stamp(each.files)
        try:
            each.reload()
        except (UsageError, OSError) as error:
            log.error("kept as it was", extra=fields(what=each.what, reason=str(error)))
        else:
            log.warning("read again", extra=fields(what=each.what))


def _stamp(files: Sequence[str]) -> Stamp:
    """Changes when a file is written or replaced, or gets other rights (which its time of change
    alone tells); also the target of a link."""
    found: list[tuple[int, ...]] = []
    for file in files:
        try:
            stat = os.stat(file)
            found.append((stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino))
        except OSError:
            found.append(())
    return tuple(found)
