"""Where a worker listens, and the line that says so."""

from __future__ import annotations

import socket
from typing import TextIO

import msgspec

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError


def bind(settings: Settings) -> socket.socket:
    """A listening socket on the address of `settings`. Raises UsageError."""
    host = host_of(settings)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # TCP by name: asyncio sends small pieces at once (TCP_NODELAY) only where it finds that.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, settings.port))
        listener.listen(min(settings.max_connections, socket.SOMAXCONN))
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise UsageError(
            f"Cannot listen on {host}:{settings.port}: {reason}.",
            fix="use another --port (0 = any free one) or --host.",
        ) from None
    listener.setblocking(False)
    return listener


def host_of(settings: Settings) -> str:
    """The address to bind. Local mode is this machine only, whatever --host says."""
    return "127.0.0.1" if settings.local_mode else settings.host


def announce(settings: Settings, out: TextIO) -> str:
    """Print the address as one line of JSON, which orchestrators wait for; returns the URL."""
    host = host_of(settings)
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    scheme = "https" if settings.tls_cert else "http"
    url = f"{scheme}://{f'[{shown}]' if ':' in shown else shown}:{settings.port}"
    line = {"url": url, "host": host, "port": settings.port, "worker_id": settings.worker_id}
    out.write(msgspec.json.encode(line).decode() + "\n")
    out.flush()
    return url
