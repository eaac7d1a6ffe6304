"""The client's end of the link: `Link`, on asyncio; its frames are those of `port.py`.

A socket pair needs no address, no permissions and no cleaning up, and each side notices at once
when the other is gone.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import msgspec

from rbee_worker.engine.messages import Command, Output
from rbee_worker.process.port import HEADER, frame


class Link:
    """The client's end of the link. One task may receive; any task may send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[list[Output]] = msgspec.msgpack.Decoder(list[Output])

    @classmethod
    async def over(cls, sock: socket.socket) -> Link:
        """A link over a connected socket, which the link then owns."""
        return cls(*await asyncio.open_connection(sock=sock))

    def send(self, *commands: Command) -> None:
        """Queue commands for the engine; never blocks. No effect if the engine is gone."""
        if not self._writer.is_closing():
            self._writer.write(frame(self._encoder.encode(commands)))

    async def receive(self) -> list[Output] | None:
        """The messages of one write by the engine; None if the engine is gone."""
        try:
            header = await self._reader.readexactly(HEADER)
            payload = await self._reader.readexactly(int.from_bytes(header, "big"))
        except (asyncio.IncompleteReadError, OSError):
            return None
        return self._decoder.decode(payload)

    async def close(self) -> None:
        """Close the link."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a link, the client's first."""
    pair: tuple[Any, Any] = socket.socketpair()
    return pair
