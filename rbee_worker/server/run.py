"""The server process: first a listening socket, then the engine, and an orderly end.

Order: bind and listen; print the address (first line of stdout, one JSON object); answer requests;
then start the engine in its own process. SIGTERM or SIGINT finishes running jobs and exits, a
second one exits at once. Exit codes: 0 clean, 3 the model cannot be loaded, 4 the device was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

import msgspec
import uvicorn
import uvloop

import rbee_worker
from rbee_worker.config import Settings
from rbee_worker.errors import WorkerError
from rbee_worker.extras import need
from rbee_worker.journal.directory import Directory
from rbee_worker.observe.log import fields, logger
from rbee_worker.observe.trace import Tracer
from rbee_worker.server.address import announce, bind
from rbee_worker.server.app import build_app
from rbee_worker.server.audit import Audit
from rbee_worker.server.connection import connection_class
from rbee_worker.server.health import worker_info
from rbee_worker.server.reloading import Reloading, Watched
from rbee_worker.server.tls import Certificate, certificate
from rbee_worker.server.tokens import Tokens
from rbee_worker.server.worker import StartEngine, Worker

if TYPE_CHECKING:
    from rbee_worker.observe.telemetry import Telemetry

SIGNALS = (signal.SIGTERM, signal.SIGINT)
HANDLED = (*SIGNALS, signal.SIGHUP)
LAST_STREAMS_S = 5  # seconds that finished answers get to reach their readers
FORGET_S = 2.0  # between two looks at what is kept no longer
FAILURE_SHOWN_S = 1.0  # seconds in which clients can still see `failed`, before the exit

log = logger("server")


def _telemetry(settings: Settings) -> Telemetry | None:
    if not settings.otel_endpoint:
        return None
    from rbee_worker.observe.telemetry import Telemetry

    return Telemetry(settings.otel_endpoint, settings.worker_id, rbee_worker.__version__)


def _watched(
    settings: Settings, tokens: Tokens, tls: Certificate | None, audit: Audit | None
) -> list[Watched]:
    """What may change while the worker runs."""

    def told() -> None:
        tokens.reload()
        if audit is not None:
            audit.note("tokens", names=[holder.name for holder in tokens.holders])

    watched = []
    if tokens.path is not None:
        watched.append(Watched("tokens", [settings.tokens_file], told))
    if tls is not None:
        watched.append(Watched("certificate", [settings.tls_cert, settings.tls_key], tls.reload))
    if audit is not None:
        watched.append(Watched("audit log", (), audit.reload))
    return watched


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: this process drains before it stops listening."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    settings: Settings,
    tokens: Tokens,
    start: StartEngine,
    *,
    out: TextIO | None = None,
    listening: Callable[[str], None] = lambda url: None,
) -> int:
    """Serve until told to stop; returns the exit code. Raises UsageError if it cannot bind, or not
    use its journal, certificate or audit log.

    listening: called with the worker's address once clients can connect.
    """
    tls = certificate(settings)
    audit = Audit(settings.audit_log) if settings.audit_log else None
    journal = Directory(settings.journal) if settings.journal else None
    listener = bind(settings)
    port = listener.getsockname()[1]
    worker_id = settings.worker_id or f"worker-{uuid.uuid4().hex[:8]}"
    settings = msgspec.structs.replace(settings, worker_id=worker_id, port=port)
    # Whoever reads the address may send a signal at once, before the loop hears any.
    early: list[int] = []
    before = {n: signal.signal(n, lambda number, _: early.append(number)) for n in HANDLED}
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        listening(announce(settings, out or sys.stdout))
        _adopt_uvicorn_log()
        service = Service(settings, tokens, start, journal=journal, tls=tls, audit=audit)
        return runner.run(service.run(listener, early))
    finally:
        # It wants a thread to wait for others. Where there is none to have, that is no other fault
        # than the one that was told, and no reason not to leave.
        with contextlib.suppress(RuntimeError):
            runner.close()
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _adopt_uvicorn_log() -> None:
    """Make uvicorn's few log lines (about invalid HTTP) look like ours and follow --log-level."""
    theirs = logging.getLogger("uvicorn.error")
    theirs.handlers = log.parent.handlers if log.parent is not None else []
    theirs.setLevel(log.getEffectiveLevel())
    theirs.propagate = False


class Service:
    """Everything in the event loop: HTTP, the engine, the heartbeat, the signals."""

    def __init__(
        self,
        settings: Settings,
        tokens: Tokens,
        start: StartEngine,
        signals: Sequence[signal.Signals] = SIGNALS,
        journal: Directory | None = None,
        tls: Certificate | None = None,
        audit: Audit | None = None,
    ) -> None:
        self.settings = settings
        self._signals_heard = signals
        self._start = start
        if settings.hive_url:
            need("httpx")  # a background task imports it, where an error would not be noticed
        self.tracer = Tracer(settings.trace) if settings.trace else None
        self.telemetry = _telemetry(settings)
        self.audit = audit
        self.worker = Worker(
            settings,
            tokens,
            tracer=self.tracer,
            telemetry=self.telemetry,
            journal=journal,
            audit=audit,
        )
        self.reloading = Reloading(_watched(settings, tokens, tls, audit))
        config = uvicorn.Config(
            build_app(self.worker),
            ssl_context_factory=None if tls is None else lambda *_: tls.context,
            http=connection_class(settings),
            ws="none",
            proxy_headers=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=settings.idle_timeout,
            timeout_graceful_shutdown=LAST_STREAMS_S,
        )
        self.server = Server(config)
        self._told_to_stop = asyncio.Event()
        self._signals = 0

    async def run(self, listener: socket.socket, early: Sequence[int] = ()) -> int:
        """Serve on `listener`; returns the exit code. early: signals that have come already."""
        loop = asyncio.get_running_loop()
        for number in self._signals_heard:
            loop.add_signal_handler(number, self.stop)
        if self._signals_heard:
            loop.add_signal_handler(signal.SIGHUP, self.hang_up)
        for heard in early:
            loop.call_soon(self.hang_up if heard == signal.SIGHUP else self.stop)
        http = asyncio.create_task(self.server.serve(sockets=[listener]))
        background: list[asyncio.Task[None]] = []
        try:
            engine = asyncio.create_task(self.worker.run(self._start))
            background.append(engine)
            background += self._companions()
            told = asyncio.create_task(self._told_to_stop.wait())
            await asyncio.wait({engine, told, http}, return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            code = await self._leave(engine)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await self.worker.close()
            self.server.should_exit = True
            await http
            if self.tracer is not None:
                self.tracer.close()
            if self.telemetry is not None:
                await asyncio.to_thread(self.telemetry.close)
            if self.audit is not None:
                await asyncio.to_thread(self.audit.close)
        return code

    def _companions(self) -> list[asyncio.Task[None]]:
        """Tasks beside serving: heartbeats, flushing the trace file, files that may change, what is
        kept no longer."""
        tasks = [asyncio.create_task(self._forget())]
        if self.reloading.watched:
            tasks.append(asyncio.create_task(self.reloading.run()))
        if self.settings.hive_url:
            tasks.append(asyncio.create_task(self._beat()))
        if self.tracer is not None:
            tasks.append(asyncio.create_task(self._flush(self.tracer)))
        return tasks

    async def _forget(self) -> None:
        """A worker that nobody asks anything keeps no prompt longer than one that is asked."""
        while True:
            await asyncio.sleep(FORGET_S)
            self.worker.jobs.tidy()
            self.worker.responses.tidy()

    async def _flush(self, tracer: Tracer) -> None:
        while True:
            await asyncio.sleep(1.0)
            tracer.flush()

    async def _beat(self) -> None:
        from rbee_worker.observe.heartbeat import Heartbeat  # imports httpx: not before serving

        heart = Heartbeat(
            self.settings.hive_url,
            lambda: worker_info(self.worker),
            self.settings.heartbeat_s,
        )
        await heart.run()

    async def _leave(self, engine: asyncio.Task[None]) -> int:
        """Wait for what must happen before the process may exit."""
        if engine.done() and (error := engine.exception()) is not None:
            if not isinstance(error, WorkerError):
                raise error
            print(f"error: {error.line}", file=sys.stderr, flush=True)  # noqa: T201
            log.error("leaving", extra=fields(code=error.code, exit_code=error.exit_code))
            await asyncio.sleep(FAILURE_SHOWN_S)
            return error.exit_code
        log.info("draining", extra=fields(jobs=len(self.worker.jobs.live())))
        drained = asyncio.create_task(self.worker.drain(self.settings.drain_timeout))
        while not drained.done() and self._signals < 2:
            await asyncio.wait({drained}, timeout=0.05)
        drained.cancel()
        return 0

    def hang_up(self) -> None:
        """Handle SIGHUP: read again what may change. Where nothing does, a service is told to for
        nothing, and goes on; a worker whose terminal was closed ends as it does by SIGTERM."""
        if self.reloading.watched:
            self.reloading.all()
        elif os.isatty(0):
            self.stop()
        else:
            log.warning("nothing to read again")

    def stop(self) -> None:
        """Handle a signal: drain and exit; the second time, exit at once."""
        self._signals += 1
        self._told_to_stop.set()
        if self._signals > 1:
            self.server.force_exit = True
