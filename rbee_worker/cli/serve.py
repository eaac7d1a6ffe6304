"""`rbee-worker serve`, alias `llm-worker-rbee`: the daemon."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from click.exceptions import Exit

import rbee_worker
from rbee_worker.cli.output import lossy_stderr
from rbee_worker.cli.terminal import aside, note
from rbee_worker.config import Settings
from rbee_worker.errors import WorkerError

if TYPE_CHECKING:
    import asyncio

    from rbee_worker.cli.session import Progress
    from rbee_worker.engine.messages import Loading
    from rbee_worker.session.client import EngineClient


def serve(settings: Settings) -> None:
    """Serve one model over HTTP, for programs and on a web page.

    OpenAI's, Anthropic's, Ollama's and llama.cpp's clients work unmodified; jobs resume.

    The first line on stdout is the address, as JSON; what people want to know is on stderr, unless
    the log is JSON. RBEE_API_TOKEN holds the token, --tokens-file several; --local-mode needs none.
    SIGTERM finishes running jobs and exits; a second one exits at once.
    """
    from rbee_worker.heap import settle
    from rbee_worker.server.tokens import read_tokens

    settle()
    lossy_stderr()
    tokens = read_tokens(settings, os.environ)
    from rbee_worker.server.run import serve as run

    greeting = Greeting(settings)
    raise Exit(run(settings, tokens, greeting.start, listening=greeting.listening))


class Greeting:
    """Tells on stderr where the page is, what is being loaded, and when the model is ready."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._quiet = settings.log_format == "json"  # stderr is for programs then
        self._began = time.monotonic()
        self._ready: asyncio.Task[None] | None = None

    def listening(self, url: str) -> None:
        """Tell the address."""
        if self._quiet:
            return
        token = "" if self._settings.local_mode else " It asks for the token."
        aside(f"rbee-worker {rbee_worker.__version__}: the page is at {url}/{token}")
        aside(f"Loading {self._settings.model}; Ctrl-C ends the worker.")

    async def start(
        self, settings: Settings, *, on_loading: Callable[[Loading], None]
    ) -> EngineClient:
        """Start the engine's process. Imported late, so that the socket listens first."""
        import asyncio

        from rbee_worker.cli.session import Progress
        from rbee_worker.session.client import EngineClient

        progress = Progress(quiet=self._quiet)

        def loading(message: Loading) -> None:
            progress(message)
            on_loading(message)

        client = await EngineClient.start(settings, on_loading=loading)
        if not self._quiet:
            self._ready = asyncio.create_task(self._tell_ready(client, progress))
        return client

    async def _tell_ready(self, client: EngineClient, progress: Progress) -> None:
        try:
            info = await client.ready()
        except WorkerError:
            return  # the server tells the reason when it leaves
        finally:
            progress.done()
        for said in info.notes:
            note(said)
        aside(
            f"Ready after {time.monotonic() - self._began:.1f} s: {info.model} ({info.arch}, "
            f"{info.n_parameters / 1e6:,.0f} million parameters) on {info.device}, "
            f"{info.context:,} tokens of context."
        )
