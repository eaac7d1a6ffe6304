"""Streams: server-sent events, and lines of JSON; the only way in which this worker writes them.

`EventStream` reads job logs at its client's pace and writes what a `Rendering` makes of them.
Events that wait to be sent are never copied into a queue: a client that falls behind finds the rest
in the log. Several events that are ready together are written at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol

from starlette.types import Receive, Scope, Send

from rbee_worker.server.jobs import JobLog, weight
from rbee_worker.types import Event

DONE = b"data: [DONE]\n\n"
COMMENT = b": still here\n\n"
EVENTS = "rbee.events"  # key of a request's scope: what may be put into its answer at any time
BEAT_S = 10.0  # seconds without a write before a comment, which makes proxies keep the connection
BATCH = 256  # most events in one write, which bounds the memory of one stream
HEAVIEST = 1 << 14  # tokens, or things of their size, in one write, after which it takes no more

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class Kind(NamedTuple):
    """headers: of the answer. comment: bytes between two frames that readers skip."""

    headers: list[tuple[bytes, bytes]]
    comment: bytes


EVENT_STREAM = Kind(HEADERS, COMMENT)
# Readers decode line after line; a blank before one changes nothing.
JSON_LINES = Kind([(b"content-type", b"application/x-ndjson"), *HEADERS[1:]], b" ")


def frame(data: bytes, number: int | None = None) -> bytes:
    """One event: `data` is one line of JSON; `number` becomes the `id:` to resume after."""
    if number is None:
        return b"data: %b\n\n" % data
    return b"id: %d\ndata: %b\n\n" % (number, data)


class Rendering(Protocol):
    """The form in which one kind of client gets the events of one or several logs."""

    def event(self, choice: int, place: int, event: Event) -> bytes:
        """Frames for the event at position `place` of log `choice`; b"" if it is not shown."""

    def done(self) -> bytes:
        """The last frames, once every log has ended."""


class EventStream:
    """An ASGI response that follows job logs from `start` until all of them have closed. If another
    process goes on with one, it ends without the last frames, and its client resumes there.

    gone: called if the client leaves before the end; sent: called after each write, with the time
    it began (monotonic seconds) and its number of events.
    """

    def __init__(
        self,
        logs: Sequence[JobLog],
        rendering: Rendering,
        *,
        start: int = 0,
        headers: Sequence[tuple[bytes, bytes]] = (),
        kind: Kind = EVENT_STREAM,
        gone: Callable[[], None] | None = None,
        sent: Callable[[float, int], None] | None = None,
    ) -> None:
        self._logs = logs
        self._rendering = rendering
        self._places = [start] * len(logs)
        self._headers = [*kind.headers, *headers]
        self._comment = kind.comment
        self._gone = gone
        self._sent = sent
        self._left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[EVENTS] = self._comment
        wake = asyncio.Event()
        watcher = asyncio.create_task(self._watch(receive, wake))
        for log in self._logs:
            log.subscribe(wake)
        whole = False
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            whole = await self._follow(send, wake)
        finally:
            for log in self._logs:
                log.unsubscribe(wake)
            watcher.cancel()
            if not whole and self._gone is not None:
                self._gone()

    async def _follow(self, send: Send, wake: asyncio.Event) -> bool:
        """Write until the logs end (True) or the client leaves (False)."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        beat = loop.call_later(BEAT_S, wake.set)
        try:
            while not self._left:
                wake.clear()
                if any(log.heavy for log in self._logs):
                    count, body = await asyncio.to_thread(self._batch)
                else:
                    count, body = self._batch()
                if body:
                    start = time.monotonic()
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    last = loop.time()
                    if self._sent is not None:
                        self._sent(start, count)
                elif count == 0 and self._at_end():
                    body = self._rendering.done()
                    await send({"type": "http.response.body", "body": body, "more_body": False})
                    return True
                elif count == 0 and any(log.left for log in self._logs):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return True
                elif count == 0:
                    if loop.time() - last >= BEAT_S:
                        comment = self._comment
                        await send(
                            {"type": "http.response.body", "body": comment, "more_body": True}
                        )
                        last = loop.time()
                    if beat.when() <= loop.time():
                        beat = loop.call_later(BEAT_S, wake.set)
                    await wake.wait()
            return False
        finally:
            beat.cancel()

    def _batch(self) -> tuple[int, bytes]:
        """Frames of the events that are ready, taken fairly from all logs: (count, bytes)."""
        count = 0
        parts: list[bytes] = []
        share = max(1, BATCH // len(self._logs))
        for choice, log in enumerate(self._logs):
            place = self._places[choice]
            heavy = 0
            for event in log.events[place : place + share]:
                parts.append(self._rendering.event(choice, place, event))
                place += 1
                count += 1
                if log.heavy and (heavy := heavy + weight(event)) * len(self._logs) > HEAVIEST:
                    break
            self._places[choice] = place
        return count, b"".join(parts)

    def _at_end(self) -> bool:
        return all(
            log.closed and place >= len(log.events)
            for log, place in zip(self._logs, self._places, strict=True)
        )

    async def _watch(self, receive: Receive, wake: asyncio.Event) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left = True
        wake.set()


class MessageStream:
    """An ASGI response of whole frames from an iterator (loading progress): few and small.

    The iterator yields b"" if it has nothing for `BEAT_S`; that becomes a comment.
    """

    def __init__(self, frames: AsyncIterator[bytes]) -> None:
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[EVENTS] = COMMENT

        async def write() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            async for body in self._frames:
                message = {"type": "http.response.body", "body": body or COMMENT, "more_body": True}
                await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        writer = asyncio.create_task(write())

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            writer.cancel()

        watcher = asyncio.create_task(watch())
        try:
            await asyncio.wait([writer])
        finally:
            watcher.cancel()
        if not writer.cancelled():
            writer.result()
