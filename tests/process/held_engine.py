"""An engine process in which an answer waits once it has as many tokens as the file says that
RBEE_TEST_HELD names, while there is such a file: whoever kills it in the middle of an answer then
does so however slow the test is. It begins to start only once there is no file of that name with
`.start` at its end."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rbee_worker.engine.scheduler import Plan, Scheduler
from rbee_worker.engine.sequence import Sequence
from rbee_worker.process.main import main

_wants, _draft, _schedule = Sequence.wants.fget, Sequence.draft, Scheduler.schedule


def _left(seq: Sequence) -> int:
    """Tokens that may still be drawn."""
    try:
        most = int(Path(os.environ["RBEE_TEST_HELD"]).read_text())
    except FileNotFoundError:
        return seq.limit
    return max(most - seq.n_output - seq.drawing, 0)


def _held_wants(seq: Sequence) -> int:
    assert _wants is not None
    return _wants(seq) if _left(seq) else 0


def _held_draft(seq: Sequence) -> tuple[int, ...]:
    return _draft(seq)[: max(_left(seq) - 1, 0)]


def _held_schedule(scheduler: Scheduler) -> Plan:
    plan = _schedule(scheduler)
    if not plan.chunks:
        time.sleep(0.002)  # all that there is waits
    return plan


HELD: tuple[tuple[type, str, object], ...] = (
    (Sequence, "wants", property(_held_wants)),
    (Sequence, "draft", _held_draft),
    (Scheduler, "schedule", _held_schedule),
)  # what to put in the place of what, also for an engine in a thread

if __name__ == "__main__":
    while os.path.exists(os.environ["RBEE_TEST_HELD"] + ".start"):
        time.sleep(0.002)
    for owner, name, value in HELD:
        setattr(owner, name, value)
    main()
