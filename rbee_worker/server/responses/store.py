"""Responses that are kept: found by id, continued by `previous_response_id`, deleted, forgotten.

They are kept like finished jobs: for --keep-jobs-s seconds after they have ended, at most
--keep-jobs of them; and together they have at most `MOST_CHARACTERS`. The oldest goes first.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from rbee_worker.server.limits import caller
from rbee_worker.server.problems import Refusal

if TYPE_CHECKING:
    from rbee_worker.server.responses.kept import Kept

MOST_CHARACTERS = 1 << 26  # of the conversations of all responses that are kept
ID = 32  # characters of a response's id behind its "resp_"


class Responses:
    """The responses of one worker that are kept, by id."""

    def __init__(
        self, *, keep_s: float, keep_n: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keep_s = keep_s
        self._keep_n = keep_n
        self._clock = clock
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # oldest first

    def add(self, kept: Kept) -> None:
        self._kept[kept.id] = kept
        self.tidy()

    def find(self, response_id: str, param: str | None = None) -> Kept:
        """The caller's response of this id. Raises Refusal 404."""
        self.tidy()
        found = self._kept.get(response_id)
        if found is None or found.job.owner != caller():
            message = f"There is no response {response_id[:64]!r} here."
            fix = (
                "responses are kept for a while (--keep-jobs-s, --keep-jobs) unless store is false."
            )
            raise Refusal(404, "response_not_found", message, fix=fix, param=param)
        return found

    def item(self, item_id: str) -> dict[str, Any] | None:
        """An item of a kept response, by its id, which has the response's in it."""
        kept = self._kept.get(f"resp_{item_id.partition('_')[2][:ID]}")
        if kept is None or kept.job.owner != caller():
            return None
        built: list[dict[str, Any]] = [*msgspec.to_builtins(kept.output()), *kept.items]
        return next((item for item in built if item["id"] == item_id), None)

    def drop(self, response_id: str) -> None:
        """Forget a response."""
        del self._kept[response_id]

    def __len__(self) -> int:
        return len(self._kept)

    def tidy(self) -> None:
        """Remove what need not be kept any more. It happens whenever something is asked, too."""
        horizon = self._clock() - self._keep_s
        ended = [k for k in self._kept.values() if k.job.ended_s]
        excess = len(ended) - self._keep_n
        total = sum(k.size for k in self._kept.values())
        for kept in ended:
            late = kept.job.ended_s <= horizon  # monotonic, as a clock that jumps ends nothing
            if not late and excess <= 0 and total <= MOST_CHARACTERS:
                break
            total -= kept.size
            excess -= 1
            del self._kept[kept.id]
