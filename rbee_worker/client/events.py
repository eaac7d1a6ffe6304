"""Turns the bytes of an event stream into typed events. No I/O; both clients use it."""

from __future__ import annotations

import msgspec

from rbee_worker import wire
from rbee_worker.wire import JobEvent

DONE = b"[DONE]"
TRIES = 8  # reconnections in a row without a new event
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

_DECODER = msgspec.json.Decoder(wire.JobEvent)
_KNOWN = frozenset(kind.__struct_config__.tag for kind in wire.JobEvent.__args__)


class EventReader:
    """Feed it the bytes that arrive; it returns complete events and remembers where to resume.

    last_id: of the last event returned. done: whether `[DONE]` has come. Unknown event types are
    skipped, so a client may be older than its worker.
    """

    def __init__(self, last_id: int = 0) -> None:
        self.last_id = last_id
        self.done = False
        self._rest = b""

    def restart(self) -> None:
        """Start a new connection: an incomplete event of the old one is dropped."""
        self._rest = b""

    def feed(self, data: bytes) -> list[JobEvent]:
        """The events that `data` completes, without those already returned."""
        *frames, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        events = []
        for frame in frames:
            event = self._frame(frame)
            if event is not None:
                events.append(event)
        return events

    def _frame(self, frame: bytes) -> JobEvent | None:
        number: int | None = None
        lines: list[bytes] = []
        for line in frame.split(b"\n"):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                lines.append(value)
            elif name == b"id" and value.isdigit():
                number = int(value)
        data = b"\n".join(lines)
        if not data:
            return None  # a comment
        if data == DONE:
            self.done = True
            return None
        if number is not None:
            if number <= self.last_id:
                return None
            self.last_id = number
        if msgspec.json.decode(data).get("type") not in _KNOWN:
            return None
        event: JobEvent = _DECODER.decode(data)
        return event


class Patience:
    """How long to wait before the next attempt to resume; gives up after `TRIES` without
    progress."""

    def __init__(self) -> None:
        self._failures = 0

    def progress(self) -> None:
        """An event has come: start counting again."""
        self._failures = 0

    def pause(self) -> float | None:
        """Seconds to wait, None = give up."""
        self._failures += 1
        if self._failures > TRIES:
            return None
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (self._failures - 1))
