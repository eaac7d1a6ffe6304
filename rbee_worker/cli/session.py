"""A running engine for one command: fetched model, progress on the terminal, clean end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rbee_worker.checkpoint import refs
from rbee_worker.cli.terminal import Status, download_progress
from rbee_worker.config import Settings
from rbee_worker.engine.client import EngineClient
from rbee_worker.engine.messages import Loading
from rbee_worker.observe import log, narration

_log = log.logger("cli")


@asynccontextmanager
async def open_engine(settings: Settings, *, quiet: bool = False) -> AsyncIterator[EngineClient]:
    """An engine that is ready, closed at the end. Raises what keeps the model from loading.

    Shows what is going on in one line on stderr, unless `quiet`.
    """
    began = time.perf_counter()
    status = Status()
    show = _ignore if quiet else status.show
    try:
        refs.resolve(settings.model, cache_dir=settings.cache_dir, progress=download_progress(show))
        show("Starting the engine.")
        client = await EngineClient.start(settings, on_loading=lambda m: show(_loading(m)))
        try:
            info = await client.ready()
            seconds = time.perf_counter() - began
            status.clear()
            _log.info(
                "engine ready",
                extra=log.fields(model=info.model, device=info.device, seconds=round(seconds, 3)),
            )
            yield client
        finally:
            await client.close()
    finally:
        status.clear()


def _loading(message: Loading) -> str:
    told = narration.loading(message.stage, message.layers_loaded, message.layers_total)
    return told.human


def _ignore(text: str) -> None:
    """Says nothing."""
