"""A running engine for one command, with progress on the terminal and a clean end."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rbee_worker.cli.terminal import Status, aside, is_rich, note, size
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Loading
from rbee_worker.observe import log, narration
from rbee_worker.session.client import EngineClient

if TYPE_CHECKING:
    from rbee_worker.session.text import TextSide

_log = log.logger("cli")


@asynccontextmanager
async def open_engine(
    settings: Settings, *, quiet: bool = False, text: Callable[[], TextSide] | None = None
) -> AsyncIterator[EngineClient]:
    """A ready engine, closed at the end of the block. Raises what keeps the model from loading.

    Shows progress and the model's notes on stderr, unless `quiet`. text: replaces the checkpoint's
    text side.
    """
    began = time.perf_counter()
    progress = Progress(quiet=quiet)
    gc.disable()  # a vocabulary is many objects to stay: no garbage is looked for among them
    client = await EngineClient.start(settings, on_loading=progress, text=text)
    try:
        info = await client.ready()
        gc.freeze()
        gc.enable()
        progress.done()
        seconds = round(time.perf_counter() - began, 3)
        _log.info(
            "engine ready",
            extra=log.fields(model=info.model, device=info.device, seconds=seconds),
        )
        for said in () if quiet else info.notes:
            note(said)
        yield client
    finally:
        gc.enable()
        progress.done()
        await client.close()


class Progress:
    """Shows the progress of loading: one changing line on a terminal; elsewhere one line when a
    slow phase (download, compilation) begins."""

    def __init__(self, *, quiet: bool) -> None:
        self._status = Status()
        self._quiet = quiet
        self._stage = ""
        if not quiet:
            self._status.show("Starting the engine.")

    def __call__(self, message: Loading) -> None:
        if self._quiet:
            return
        self._status.show(words(message))
        if message.stage != self._stage and not is_rich(sys.stderr):
            if message.stage == "downloading":
                known = f" ({size(message.bytes_total)})" if message.bytes_total else ""
                aside(f"Fetching the model{known}.")
            elif message.stage == "compiling":
                aside(f"Compiling {message.layers_total} CPU kernels for this processor.")
        self._stage = message.stage

    def done(self) -> None:
        """Remove the line. Nothing is shown from now on: where another engine loads in the place
        of a lost one, an answer may be on the line."""
        self._status.clear()
        self._quiet = True


def words(message: Loading) -> str:
    """A loading message as text."""
    if message.stage == "downloading":
        total = size(message.bytes_total) if message.bytes_total else ""
        return narration.downloading(size(message.bytes_loaded), total).human
    if message.stage == "compiling":
        return narration.compiling(message.layers_loaded, message.layers_total, message.item).human
    return narration.loading(message.stage, message.layers_loaded, message.layers_total).human
