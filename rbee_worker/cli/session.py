"""A running engine for one command: progress on the terminal, clean end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rbee_worker.cli.terminal import Status, size
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
    show("Starting the engine.")
    client = await EngineClient.start(settings, on_loading=lambda m: show(words(m)))
    try:
        info = await client.ready()
        status.clear()
        seconds = round(time.perf_counter() - began, 3)
        _log.info(
            "engine ready",
            extra=log.fields(model=info.model, device=info.device, seconds=seconds),
        )
        yield client
    finally:
        status.clear()
        await client.close()


def words(message: Loading) -> str:
    """A loading message as a person reads it."""
    if message.stage == "downloading":
        total = size(message.bytes_total) if message.bytes_total else ""
        return narration.downloading(size(message.bytes_loaded), total).human
    return narration.loading(message.stage, message.layers_loaded, message.layers_total).human


def _ignore(text: str) -> None:
    """Says nothing."""
