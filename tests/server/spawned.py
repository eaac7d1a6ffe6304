"""Worker processes in tests: spawned, asked, told to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import httpx

from tests.patience import LIMIT_S
from tests.process.held import PROGRAM, Hold

ROOT = Path(__file__).parents[2]
DAEMON = "from rbee_worker.cli.main import daemon; daemon()"


class Spawned:
    """A process whose first line on stdout is its address."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None) -> None:
        # compiled modules may be kept, as an installed package has them
        away = ("RBEE_", "LLORCH_", "PYTHONDONTWRITEBYTECODE")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(away)}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**inherited, "PYTHONPATH": path, **(env or {})},
        )
        assert self.process.stdout is not None
        self.line: dict[str, Any] = {}
        self.errors = b""
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        first = self.process.stdout.readline()
        if first:
            self.line = json.loads(first)
            self.http = httpx.Client(base_url=self.line["url"], timeout=LIMIT_S)

    @classmethod
    def fake(cls, settings: dict[str, Any], fake: dict[str, Any] | None = None) -> Self:
        """A worker with the fake engine, in local mode unless `settings` says otherwise."""
        chosen = {"local_mode": True, "port": 0, **settings}
        return cls(
            [
                sys.executable,
                "-m",
                "tests.server.fake_worker",
                json.dumps(chosen),
                json.dumps(fake or {}),
            ]
        )

    @classmethod
    def daemon(cls, *args: str, env: dict[str, str] | None = None) -> Self:
        """`llm-worker-rbee ARGS`."""
        return cls([sys.executable, "-c", DAEMON, *args], env)

    @classmethod
    def held(cls, hold: Hold, *args: str) -> Self:
        """The same, with engines that `hold` holds."""
        return cls([sys.executable, "-m", PROGRAM, "daemon", *args], hold.env)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line

    def ready(self, seconds: float = LIMIT_S) -> None:
        """Wait until the model is loaded."""
        with self.http.stream("GET", "/v1/loading/progress", timeout=seconds) as progress:
            text = progress.read().decode()
        assert '"ready"' in text, (text, self.errors)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = LIMIT_S) -> int:
        """The exit code."""
        code = self.process.wait(seconds)
        self._reader.join(LIMIT_S)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(LIMIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._reader.join(LIMIT_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        if self.line:
            self.http.close()
