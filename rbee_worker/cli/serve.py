"""`rbee-worker serve`, alias `llm-worker-rbee`: the daemon."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from click.exceptions import Exit

from rbee_worker.config import Settings

if TYPE_CHECKING:
    from rbee_worker.engine.messages import Loading
    from rbee_worker.session.client import EngineClient


def serve(settings: Settings) -> None:
    """Serve one model over HTTP: jobs and streams, OpenAI clients, a web page at /.

    The first line on stdout is the address, as JSON. RBEE_API_TOKEN holds the token, --tokens-file
    several; --local-mode needs none. SIGTERM finishes running jobs and exits; a second one exits at
    once.
    """
    from rbee_worker.server.tokens import read_tokens

    tokens = read_tokens(settings, os.environ)
    from rbee_worker.server.run import serve as run

    raise Exit(run(settings, tokens, _engine))


async def _engine(settings: Settings, *, on_loading: Callable[[Loading], None]) -> EngineClient:
    """Start the engine's process. Imported late, so that the socket listens first."""
    from rbee_worker.session.client import EngineClient

    return await EngineClient.start(settings, on_loading=on_loading)
