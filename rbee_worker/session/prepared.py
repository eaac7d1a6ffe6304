"""`Prepared`: a request as ids and resolved parameters."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.types import Resolved


@dataclass(frozen=True)
class Prepared:
    """A request that can be run. warnings: what its caller should know about it. second: the
    position from which on tokens belong to the second of two texts; 0: there is one."""

    prompt_ids: tuple[int, ...]
    resolved: Resolved
    warnings: tuple[str, ...] = ()
    second: int = 0
