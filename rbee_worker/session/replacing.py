"""When a lost engine is replaced: at once, then after growing pauses, and not without end."""

from __future__ import annotations

import time
from collections.abc import Callable

from rbee_worker.session.live_request import CRASH

PAUSES_S = (0.0, 0.2, 1.0, 3.0, 10.0)  # before each replacement that follows an engine without use
LONG_LIFE_S = 60.0


class Replacing:
    """Counts engines in a row that were lost without having been of use: without a token, and soon.
    Those that somebody has killed count a third.

    lost: engines that were lost in all; in_row: since one was of use.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lost = self.in_row = 0
        self._useless = 0
        self._clock = clock
        self._ready_s: float | None = None  # None: it still loads

    def ready(self) -> None:
        """The engine can serve. A long load is no long life."""
        self._ready_s = self._clock()

    def useful(self) -> None:
        """The engine that runs has made a token."""
        self._useless = self.in_row = 0

    def pause_s(self, counts: int = CRASH, *, culprit_known: bool = False) -> float | None:
        """An engine was lost: seconds to wait before the next; None: give up. counts: `CRASH` or
        `KILL`.

        culprit_known: the request that was the reason will not come again, and others wait: this
        loss is not counted against engines.
        """
        self.lost += 1
        if self._ready_s is not None and self._clock() - self._ready_s > LONG_LIFE_S:
            self._useless = self.in_row = 0
        self.in_row += 1
        self._ready_s = None
        if culprit_known:
            return PAUSES_S[0]
        self._useless += counts
        crashes = -(-self._useless // CRASH)
        return PAUSES_S[crashes - 1] if crashes <= len(PAUSES_S) else None
