"""A whole server on a real socket, in a thread of the test process, with the fake engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

import httpx
import msgspec

from rbee_worker.config import Settings
from rbee_worker.journal.directory import Directory
from rbee_worker.server.address import bind
from rbee_worker.server.audit import Audit
from rbee_worker.server.run import Service
from rbee_worker.server.tls import certificate
from rbee_worker.server.tokens import Tokens
from rbee_worker.server.worker import StartEngine
from tests.patience import LIMIT_S
from tests.server.fake_engine import Fake, FakeEngineClient, starter

TOKEN = "a-token-of-24-characters"


class Served:
    """`with Served() as s: s.http.get("/health")`. `s.engine` is the fake, once it exists."""

    def __init__(
        self,
        fake: Fake | None = None,
        token: str = TOKEN,
        start: StartEngine | None = None,
        **settings: Any,
    ) -> None:
        self.fake = fake or Fake()
        self.token = token
        self.engines: list[FakeEngineClient] = []
        self._start = start or starter(self.fake, self.engines)
        base = Settings(host="127.0.0.1", port=0, worker_id="w1", local_mode=not token)
        self.settings = msgspec.structs.replace(base, **settings)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._bound = threading.Event()
        self.exit_code: int | None = None
        self.others: list[Any] = []  # other clients of this server, closed with it

    def _run(self) -> None:
        journal = Directory(self.settings.journal) if self.settings.journal else None
        listener = bind(self.settings)
        port = listener.getsockname()[1]
        self.settings = msgspec.structs.replace(self.settings, port=port)
        self.url = f"http://127.0.0.1:{port}"
        with asyncio.Runner() as runner:
            self.loop = runner.get_loop()
            self.service = Service(
                self.settings,
                Tokens(self.settings, self.token),
                self._start,
                signals=(),
                journal=journal,
                tls=certificate(self.settings),
                audit=Audit(self.settings.audit_log) if self.settings.audit_log else None,
            )
            self._bound.set()
            self.exit_code = runner.run(self.service.run(listener))

    @property
    def engine(self) -> FakeEngineClient:
        return self.engines[0]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def start(self) -> Self:
        """Start without waiting for the model."""
        self._thread.start()
        assert self._bound.wait(LIMIT_S)
        self.http = httpx.Client(base_url=self.url, headers=self.headers, timeout=LIMIT_S)
        return self

    def __enter__(self) -> Self:
        self.start()
        with self.http.stream("GET", "/v1/loading/progress") as progress:
            progress.read()
        return self

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(LIMIT_S)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.service.stop)

    def join(self) -> int | None:
        """Wait for the end; the exit code."""
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        return self.exit_code

    def __exit__(self, *_: object) -> None:
        for client in (self.http, *self.others):
            client.close()
        if self._thread.is_alive():
            self.stop()
            self.loop.call_soon_threadsafe(self.service.stop)
            self.join()


def wait_for(condition: Callable[[], bool], seconds: float = LIMIT_S) -> None:
    """Poll until `condition()` holds; fails after `seconds`."""
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
