"""From settings to an engine that serves: the engine loads the weights while the client reads the
same checkpoint's tokenizer and template. If one of the two fails, both end."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from rbee_worker.checkpoint.weight_files import digest, stamp
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Configure, LoadFailed, Loading, Output, Ready
from rbee_worker.errors import (
    AdapterError,
    BadReference,
    CheckpointError,
    DeviceLost,
    ModelError,
    OutOfMemory,
    UnsupportedModel,
    UsageError,
    WorkerError,
)
from rbee_worker.model_info import ModelInfo
from rbee_worker.params import generation_defaults
from rbee_worker.process.host import EngineHost
from rbee_worker.session.drafts import Drafts
from rbee_worker.session.pair_texts import described
from rbee_worker.session.pictures import settled
from rbee_worker.session.prepare import rules_of
from rbee_worker.session.text import TextSide, open_text

Progress = Callable[[Loading], None]
Heard = Callable[[Sequence[Output]], None]  # told of everything that an engine says
Files = tuple[Path, tuple[tuple[str, int, int], ...]]  # where a model is, and its files' `stamp`


async def bring_up(
    host: EngineHost,
    settings: Settings,
    progress: Progress,
    drafts: Drafts,
    text: Callable[[], TextSide] | None = None,
) -> tuple[ModelInfo, TextSide, Files | None]:
    """Start `host` and wait until the engine and the text side are ready. Raises WorkerError.

    The child process starts first, and imports while the checkpoint is found (or downloaded) here.
    It is given the path as soon as that is known, so that both read the same files at the same
    time. drafts: is told where the draft model is, if there is one. text: replaces the checkpoint's
    text side, of a model that has no files.
    """
    await host.start()
    name, files = settings.model, None
    if text is None:
        loop = asyncio.get_running_loop()
        files = await asyncio.to_thread(_found, settings, loop, progress)
        path, _ = files
        settings = msgspec.structs.replace(settings, model=str(path))
        if settings.lora or settings.draft_model or settings.mmproj:
            from rbee_worker.adapters import localized  # late: a heavy import

            settings = await asyncio.to_thread(localized, settings)
        if settings.draft_model:
            await asyncio.to_thread(drafts.found, settings.draft_model)
        text = partial(_read, name, path, settings)
    host.link.send(Configure(settings=settings))
    words = asyncio.ensure_future(asyncio.to_thread(text))
    engine = asyncio.ensure_future(_engine_ready(host, progress))
    try:
        await asyncio.wait({words, engine}, return_when=asyncio.FIRST_EXCEPTION)
        for task in (words, engine):
            if task.done():
                task.result()
        return _described(await engine, await words, settings, name), await words, files
    finally:
        for task in (words, engine):
            task.cancel()
            task.add_done_callback(_seen)


async def bring_back(
    host: EngineHost,
    settings: Settings,
    text: TextSide,
    before: ModelInfo,
    files: Files | None,
    progress: Progress,
    heard: Heard,
) -> ModelInfo:
    """Start `host` in the place of a lost engine and wait until it is ready, with the same files.

    before: the lost engine. The new one has its context, even if less memory is free now: requests
    were admitted with it; and its backend, though `auto` might choose another one now. heard: is
    told of all that the new one says. Raises WorkerError; CheckpointError if the files have
    changed, DeviceLost if the device is gone.
    """
    here = msgspec.structs.replace(settings, ctx=before.context, backend=before.backend)
    if files is not None:
        await asyncio.to_thread(_check_same, files)
        here = msgspec.structs.replace(here, model=str(files[0]))
    if here.mmproj:
        from rbee_worker.adapters import with_local_tower  # late: a heavy import

        here = await asyncio.to_thread(with_local_tower, here)
    await host.start()
    host.link.send(Configure(settings=here))
    try:
        ready = await _engine_ready(host, progress, heard)
    except UsageError as error:  # these settings were good before
        if error.of_draft:
            raise
        raise DeviceLost(f"the engine cannot be started again: {error.message}") from None
    info = _described(ready, text, here, settings.model)
    return msgspec.structs.replace(info, notes=tuple(dict.fromkeys(before.notes + info.notes)))


def fingerprint(
    settings: Settings, info: ModelInfo, files: Files | None, tower: Path | None
) -> str:
    """A digest of what answers depend on besides their requests: the model's files, that of its
    tower, and every setting that changes its numbers or how its text is read."""
    read = (settings.tool_format, settings.thinking)
    model = "" if files is None else digest(files[0])
    eyes = "" if tower is None else digest(tower)
    known = (model, eyes, computed(settings, info), read)
    return hashlib.sha256(repr(known).encode()).hexdigest()


def computed(settings: Settings, info: ModelInfo) -> tuple[str | bool, ...]:
    """How a model's numbers are made, as far as settings change them."""
    types = (info.backend, info.dtype, info.kv_dtype, settings.quantize)
    rounded = (settings.exact_activations, settings.bf16_activations, settings.deterministic)
    return (*types, *rounded, settings.kv_cache, settings.attention)


def _check_same(files: Files) -> None:
    """Answers that one engine began must not go on with the weights of another model."""
    path, before = files
    if stamp(path) != before:
        raise CheckpointError(
            f"{path}: the model's files have changed since it was loaded, so no other engine can "
            "take the place of the one that was lost.",
            fix="start the worker again.",
        )


def _described(info: ModelInfo, text: TextSide, settings: Settings, name: str) -> ModelInfo:
    """The engine's description, with the name that the user gave and the text side's notes."""
    from rbee_worker.tokenizer.rows import rows_note  # late: a heavy import

    info = described(settled(info, text), text.pairs)
    notes = (
        *text.tokenizer.warnings,
        *info.notes,
        *(() if text.speech is None else text.speech.notes),
        *rows_note(text.tokenizer, info.vocab_size),
    )
    if settings.generation_config:
        _, more = generation_defaults(text.generation, context=info.context)
        notes += more
    whole = msgspec.structs.replace(info, model=name, notes=tuple(dict.fromkeys(notes)))
    rules_of(text, whole, settings)  # raises where a setting does not go with the model
    return whole


def _seen(task: asyncio.Future[Any]) -> None:
    """Mark a task's exception as seen: if two fail, one is raised and the other stays
    unreported."""
    if not task.cancelled():
        task.exception()


def _found(settings: Settings, loop: asyncio.AbstractEventLoop, progress: Progress) -> Files:
    """The checkpoint, downloaded first if it is remote."""
    from rbee_worker.checkpoint.refs import resolve

    def fetched(_: str, done: int, total: int) -> None:
        loading = Loading(stage="downloading", bytes_loaded=done, bytes_total=total)
        loop.call_soon_threadsafe(progress, loading)

    path = resolve(settings.model, cache_dir=settings.cache_dir, progress=fetched)
    return path, stamp(path)


def _read(ref: str, path: Path, settings: Settings) -> TextSide:
    """The text side of the checkpoint at `path`."""
    from rbee_worker.checkpoint import open_found
    from rbee_worker.models import check_architecture

    ckpt = open_found(ref, path, settings.mmproj)
    check_architecture(ckpt)  # before any error about its tokenizer
    return open_text(ckpt, settings)


async def _engine_ready(
    host: EngineHost, progress: Progress, heard: Heard = lambda _: None
) -> ModelInfo:
    while (outputs := await host.link.receive()) is not None:
        heard(outputs)
        for m in outputs:
            if isinstance(m, Loading):
                progress(m)
            elif isinstance(m, LoadFailed):
                raise _load_error(m)
            elif isinstance(m, Ready):
                return m.info
    raise ModelError(
        f"the engine ended while it was loading the model: {await host.last_words()}.",
        fix="see the lines above; running out of memory is a common cause.",
    )


def _load_error(m: LoadFailed) -> WorkerError:
    """The engine's exception, restored from its code; its message is complete."""
    kinds: tuple[type[WorkerError], ...] = (
        UsageError,
        AdapterError,
        BadReference,
        CheckpointError,
        UnsupportedModel,
        OutOfMemory,
        DeviceLost,
    )
    error = next((k for k in kinds if k.code == m.code), ModelError)(m.message)
    error.exit_code, error.of_draft = m.exit_code, m.of_draft
    return error
