"""`rbee-worker` where libfaketime moves the wall clock.

Python sleeps until a time of the monotonic clock. libfaketime takes that for a time of the clock
that it moves, and the call fails; `select` waits for a span of time, which it leaves alone.
"""

from __future__ import annotations

import select
import time
from typing import SupportsIndex

from rbee_worker.cli.main import main


def _sleep(seconds: SupportsIndex | float) -> None:
    select.select([], [], [], float(seconds))


if __name__ == "__main__":
    time.sleep = _sleep
    main()
