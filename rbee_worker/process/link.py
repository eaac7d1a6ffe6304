"""The wire between client and engine: frames over a socket pair, in both directions.

A frame is four bytes of length and a msgpack list of messages; everything a step produces is one
frame and one write. A socket pair needs no address, no permission and no cleaning up, and tells
either side at once when the other is gone. `Port` is the engine's end (a thread reads, so that a
command is waiting when a step ends, and a parent's death is noticed in the middle of one); `Link`
is the client's end, on asyncio.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from rbee_worker.engine.messages import Command, Output

_HEADER = 4


class PortClosed(Exception):
    """The other end of the link is gone."""


def _frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(_HEADER, "big") + payload


class Port:
    """The engine's end. `on_close` runs in the reading thread when the client is gone."""

    def __init__(self, sock: socket.socket, on_close: Callable[[], None] | None = None) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._on_close = on_close
        self._encoder = msgspec.msgpack.Encoder()
        self._inbox: queue.SimpleQueue[list[Command] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="engine-link", daemon=True)
        self._reader.start()

    def receive(self, *, wait: bool) -> list[Command]:
        """Commands that have arrived; with `wait`, sleeps until there is one. Raises PortClosed."""
        commands: list[Command] = []
        if not wait and self._inbox.empty():  # between any two steps of decoding
            return commands
        with suppress(queue.Empty):
            while True:
                some = self._inbox.get(block=wait and not commands)
                if some is None:
                    self._inbox.put(None)  # stay closed
                    raise PortClosed
                commands += some
        return commands

    def send(self, outputs: list[Output]) -> None:
        """Write one frame. Raises PortClosed."""
        try:
            self._sock.sendall(_frame(self._encoder.encode(outputs)))
        except OSError as error:
            raise PortClosed from error

    def close(self) -> None:
        """End the link from this side; what was sent before still arrives."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._reader:
            self._reader.join()
        self._sock.close()

    def _read(self) -> None:
        decoder = msgspec.msgpack.Decoder(list[Command])
        try:
            with self._sock.makefile("rb") as stream:
                while header := stream.read(_HEADER):
                    payload = stream.read(int.from_bytes(header, "big"))
                    self._inbox.put(decoder.decode(payload))
        except (OSError, msgspec.DecodeError):
            pass
        self._inbox.put(None)
        if self._on_close is not None:
            self._on_close()


class Link:
    """The client's end of the wire. One task may read, any may send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[list[Output]] = msgspec.msgpack.Decoder(list[Output])

    @classmethod
    async def over(cls, sock: socket.socket) -> Link:
        """A link over a connected socket, which it then owns."""
        return cls(*await asyncio.open_connection(sock=sock))

    def send(self, *commands: Command) -> None:
        """Queue commands for the engine; never blocks. Nothing happens when it is gone."""
        if not self._writer.is_closing():
            self._writer.write(_frame(self._encoder.encode(commands)))

    async def receive(self) -> list[Output] | None:
        """What the engine sent in one write; None when it is gone."""
        try:
            header = await self._reader.readexactly(_HEADER)
            payload = await self._reader.readexactly(int.from_bytes(header, "big"))
        except (asyncio.IncompleteReadError, OSError):
            return None
        return self._decoder.decode(payload)

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a link, client's first."""
    pair: tuple[Any, Any] = socket.socketpair()
    return pair
