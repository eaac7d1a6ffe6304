"""The client's end of the link: `Link`, on asyncio; its frames are those of `port.py`.

A socket pair needs no address, no permissions and no cleaning up, and each side notices at once
when the other is gone.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress
from typing import Any, cast

import msgspec

from rbee_worker.engine.messages import Command, Output
from rbee_worker.process.port import HEADER, frame

_MOST_WAITING = 256  # frames that were read and not received, from which on reading pauses
_CHUNK = 1 << 16  # bytes


class _Frames(asyncio.Protocol):
    """The frames that come over a socket. What was sent before the other end was gone comes, also
    where writing fails first: which requests an engine was running, for example.

    asyncio's own stream drops what it has read, and leaves the rest unread, as soon as there is an
    error; and there is one wherever an engine dies before it has read all that was written to it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._rest = sock.dup()  # outlives the transport, which closes its own
        self._bytes = bytearray()
        self._whole: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._bytes += data
        while len(self._bytes) >= HEADER:
            end = HEADER + int.from_bytes(self._bytes[:HEADER], "big")
            if len(self._bytes) < end:
                break
            self._whole.append(bytes(self._bytes[HEADER:end]))
            del self._bytes[:end]
        if len(self._whole) > _MOST_WAITING and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`: the socket may still have data."""
        self._transport = None
        with self._rest, suppress(OSError):
            self._rest.setblocking(False)
            while data := self._rest.recv(_CHUNK):
                self.data_received(data)
        self.lost.set()
        self._changed.set()

    async def next(self) -> bytes | None:
        """The payload of the next frame; None if there will be no other."""
        while not self._whole:
            if self.lost.is_set():
                return None
            self._changed.clear()
            await self._changed.wait()
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return self._whole.popleft()


class Link:
    """The client's end of the link. One task may receive; any task may send."""

    def __init__(self, frames: _Frames, transport: asyncio.Transport) -> None:
        self._frames = frames
        self._transport = transport
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[list[Output]] = msgspec.msgpack.Decoder(list[Output])

    @classmethod
    async def over(cls, sock: socket.socket) -> Link:
        """A link over a connected socket, which the link then owns."""
        loop = asyncio.get_running_loop()
        transport, frames = await loop.create_connection(lambda: _Frames(sock), sock=sock)
        return cls(frames, transport)

    def send(self, *commands: Command) -> None:
        """Queue commands for the engine; never blocks. No effect if the engine is gone."""
        if not self._transport.is_closing():
            self._transport.write(frame(self._encoder.encode(commands)))

    async def receive(self) -> list[Output] | None:
        """The messages of one write by the engine; None if the engine is gone."""
        payload = await self._frames.next()
        return None if payload is None else self._decoder.decode(payload)

    async def close(self) -> None:
        """Close the link."""
        self._transport.close()
        await self._frames.lost.wait()


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a link, the client's first."""
    pair: tuple[Any, Any] = socket.socketpair()
    return pair
