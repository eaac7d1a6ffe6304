"""Sound as an HTTP answer: a job's tokens become codes or samples while its client reads.

`Sound` follows a job's log; making samples takes long, so a thread does it. `SoundStream` is the
answer: its head waits for the first piece, so that a job that fails at once is an error and no
broken file.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
from starlette.types import Message, Receive, Scope, Send

from rbee_worker.server.jobs import Job
from rbee_worker.server.openai.shared import mid_stream
from rbee_worker.server.openai.speech_schemas import (
    AudioDelta,
    Codes,
    CodesDelta,
    SpeechDone,
    SpeechUsage,
)
from rbee_worker.server.problems import Refusal
from rbee_worker.server.requests import failed
from rbee_worker.server.sse import DONE, HEADERS, frame
from rbee_worker.speech.speaking import Codes as Numbers
from rbee_worker.speech.speaking import Speaking
from rbee_worker.speech.wav import pcm, wav_header
from rbee_worker.types import End, Error, Token

Headers = list[tuple[bytes, bytes]]


class Sound:
    """One answer. spoke: is told how many frames there are more; frames: how many have left."""

    def __init__(self, job: Job, speaking: Speaking, spoke: Callable[[int], None]) -> None:
        self.job, self.speaking, self._spoke = job, speaking, spoke
        self.frames = 0

    async def codes(self) -> AsyncIterator[Numbers]:
        """The codes of frames, as they come: [books, n]. Raises Refusal if the job fails."""
        async for ids in self._ids():
            made = self.speaking.push(ids)
            if made.shape[1]:
                self._count(made)
                yield made
        left = self.speaking.end()
        while (piece := await asyncio.to_thread(lambda: next(left, None))) is not None:
            self._count(piece)
            yield piece

    def _count(self, codes: Numbers) -> None:
        self.frames += codes.shape[1]
        self._spoke(codes.shape[1])

    async def pcm(self) -> AsyncIterator[bytes]:
        """The samples, as they are certain. Raises Refusal if the job fails."""
        async for made in self.codes():
            samples = await asyncio.to_thread(self.speaking.samples, made)
            if len(samples):
                yield pcm(samples)
        rest = await asyncio.to_thread(self.speaking.rest)
        if len(rest):
            yield pcm(rest)

    async def _ids(self) -> AsyncIterator[Sequence[int]]:
        """The job's ids, all that are there at once."""
        log, place, wake = self.job.log, 0, asyncio.Event()
        log.subscribe(wake)
        try:
            while True:
                wake.clear()
                events, place = log.events[place:], len(log.events)
                ids: list[int] = []
                for event in events:
                    if isinstance(event, Token | End):
                        ids += event.ids
                    elif isinstance(event, Error):
                        raise failed(event)
                if ids:
                    yield ids
                elif not events and log.closed:
                    return
                elif not events:
                    await wake.wait()
        finally:
            log.unsubscribe(wake)

    def done(self) -> SpeechDone:
        """What is known at the end."""
        end, started = self.job.end, self.job.started
        assert end is not None
        assert started is not None
        given, drawn = end.usage.prompt_tokens, end.usage.output_tokens
        return SpeechDone(
            usage=SpeechUsage(input_tokens=given, output_tokens=drawn, total_tokens=given + drawn),
            frames=self.frames,
            stop=end.stop.rule,
            seed=started.seed,
            strays=self.speaking.strays,
            unpaired=self.speaking.unpaired,
        )


class Parts(Protocol):
    """A form of the answer."""

    headers: Headers
    events: bool  # an error has a place in it

    def parts(self, sound: Sound) -> AsyncIterator[bytes]:
        """Its bytes, piece by piece."""
        ...


class _File:
    """A file of 16-bit samples, with a header or bare."""

    events = False

    def __init__(self, media: str, head: bytes) -> None:
        self.headers: Headers = [(b"content-type", media.encode()), *HEADERS[1:]]
        self._head = head

    async def parts(self, sound: Sound) -> AsyncIterator[bytes]:
        head = self._head
        async for data in sound.pcm():
            yield head + data
            head = b""
        if head:
            yield head  # nothing was said


class _AudioEvents:
    """OpenAI's events, with the pieces of a file in them."""

    events = True

    def __init__(self, head: bytes) -> None:
        self.headers: Headers = list(HEADERS)
        self._head = head

    async def parts(self, sound: Sound) -> AsyncIterator[bytes]:
        head = self._head
        async for data in sound.pcm():
            yield _frame(AudioDelta(audio=base64.b64encode(head + data).decode()))
            head = b""
        yield _frame(sound.done()) + DONE


class _CodeEvents:
    """Events with codes."""

    events = True

    def __init__(self) -> None:
        self.headers: Headers = list(HEADERS)

    async def parts(self, sound: Sound) -> AsyncIterator[bytes]:
        async for codes in sound.codes():
            yield _frame(CodesDelta(codes=codes.tolist()))
        yield _frame(sound.done()) + DONE


class _Codes:
    """One JSON object with all codes."""

    events = False

    def __init__(self) -> None:
        self.headers: Headers = [(b"content-type", b"application/json")]

    async def parts(self, sound: Sound) -> AsyncIterator[bytes]:
        found = [codes async for codes in sound.codes()]
        all_of_them = np.concatenate(found, axis=1).tolist() if found else []
        done = sound.done()
        yield msgspec.json.encode(
            Codes(
                codes=all_of_them,
                frames=done.frames,
                stop=done.stop,
                seed=done.seed,
                usage=done.usage,
                strays=done.strays,
                unpaired=done.unpaired,
            )
        )


def _frame(event: msgspec.Struct) -> bytes:
    return frame(msgspec.json.encode(event))


# (response_format, stream_format) -> the form at a codec's rate
PARTS: Mapping[tuple[str, str], Callable[[int], Parts]] = {
    ("wav", "audio"): lambda rate: _File("audio/wav", wav_header(rate)),
    ("pcm", "audio"): lambda rate: _File(f"audio/pcm;rate={rate};channels=1", b""),
    ("wav", "sse"): lambda rate: _AudioEvents(wav_header(rate)),
    ("pcm", "sse"): lambda rate: _AudioEvents(b""),
    ("tokens", "audio"): lambda rate: _Codes(),
    ("tokens", "sse"): lambda rate: _CodeEvents(),
}


class SoundStream:
    """An ASGI response. gone: called if the client leaves, or the sound breaks off; sent: called
    after each piece, with the time it began (monotonic seconds)."""

    def __init__(
        self,
        sound: Sound,
        parts: Parts,
        *,
        headers: Headers,
        gone: Callable[[], None],
        sent: Callable[[float, int], None],
    ) -> None:
        self._parts, self._sound = parts, sound
        self._headers = [*parts.headers, *headers]
        self._gone, self._sent = gone, sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.create_task(self._write(send))
        watcher = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({writer, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                await writer
        finally:
            whole = writer.done() and not writer.cancelled() and writer.exception() is None
            for task in (writer, watcher):
                task.cancel()
            if not whole:
                self._gone()

    async def _write(self, send: Send) -> None:
        pieces = self._parts.parts(self._sound)
        begun = False
        try:
            async for piece in pieces:
                if not begun:
                    start: Message = {"type": "http.response.start", "status": 200}
                    await send({**start, "headers": self._headers})
                    begun = True
                began = time.monotonic()
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._sent(began, 1)
        except Refusal:
            if not begun:
                raise
            if not self._parts.events:
                return  # the connection closes before the file's end: its reader knows
            error = self._sound.job.error
            assert error is not None
            body = frame(msgspec.json.encode(mid_stream(error)))
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
