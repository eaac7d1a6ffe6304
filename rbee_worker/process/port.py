"""The engine's end of the link: `Port`, and the frames that both ends use.

A frame is a length of four bytes and a msgpack list of messages. All output of a step is one frame
and one write. A thread reads, so that commands are already there when a step ends, and so that the
death of the client is noticed during a step; it answers `Ping` as well. Imports no asyncio: the
engine starts faster without.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from rbee_worker.engine.messages import Command, Output, Ping, Pong

HEADER = 4  # bytes of a frame's length


class PortClosed(Exception):
    """The other end of the link is gone."""


def frame(payload: bytes) -> bytes:
    """A payload with its length before it."""
    return len(payload).to_bytes(HEADER, "big") + payload


class Port:
    """The engine's end. on_close: called in the reading thread when the client is gone."""

    def __init__(self, sock: socket.socket, on_close: Callable[[], None] | None = None) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._on_close = on_close
        self._encoder = msgspec.msgpack.Encoder()
        self._writing = threading.Lock()
        self._step_began_s = 0.0  # monotonic; 0.0 between steps
        self._inbox: queue.SimpleQueue[list[Command] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="engine-link", daemon=True)
        self._reader.start()

    def receive(self, *, wait: bool) -> list[Command]:
        """The commands that have arrived; with `wait`, sleeps until there is one. Raises
        PortClosed."""
        commands: list[Command] = []
        if not wait and self._inbox.empty():  # the usual case between two decoding steps
            return commands
        with suppress(queue.Empty):
            while True:
                some = self._inbox.get(block=wait and not commands)
                if some is None:
                    self._inbox.put(None)  # so that the next call raises too
                    raise PortClosed
                commands += some
        return commands

    @contextmanager
    def step(self) -> Iterator[None]:
        """The block is one step, whose time is told if it is long."""
        self._step_began_s = time.monotonic()
        try:
            yield
        finally:
            self._step_began_s = 0.0

    def send(self, outputs: list[Output]) -> None:
        """Write one frame. Raises PortClosed."""
        try:
            with self._writing:
                self._sock.sendall(frame(self._encoder.encode(outputs)))
        except OSError as error:
            raise PortClosed from error

    def close(self) -> None:
        """Close the link from this side; what was sent before still arrives."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._reader:
            self._reader.join()
        self._sock.close()

    def _read(self) -> None:
        decoder = msgspec.msgpack.Decoder(list[Command])
        try:
            with self._sock.makefile("rb") as stream:
                while header := stream.read(HEADER):
                    commands = decoder.decode(stream.read(int.from_bytes(header, "big")))
                    if any(isinstance(c, Ping) for c in commands):
                        began_s = self._step_began_s
                        self.send([Pong(step_s=time.monotonic() - began_s if began_s else 0.0)])
                        commands = [c for c in commands if not isinstance(c, Ping)]
                    if commands:
                        self._inbox.put(commands)
        except (OSError, msgspec.DecodeError, PortClosed):
            pass
        self._inbox.put(None)
        if self._on_close is not None:
            self._on_close()
