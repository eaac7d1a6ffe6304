"""The engine's process with its weights held another way: `RBEE_TEST_WEIGHTS` is kept (as usual),
small (kept, in small pages) or own (not kept: each engine repacks)."""

from __future__ import annotations

import os

from rbee_worker.ops.cpu.runtime import kept_arena
from rbee_worker.process import main

_INVALID = 999  # no advice of Linux's


def held_as_told() -> None:
    """Change what decides how weights are held."""
    how = os.environ["RBEE_TEST_WEIGHTS"]
    if how == "small":
        kept_arena._COLLAPSE = _INVALID
    if how == "own":
        main.KeptMemory = lambda fd: None  # type: ignore[assignment, misc]


if __name__ == "__main__":
    held_as_told()
    main.main()
