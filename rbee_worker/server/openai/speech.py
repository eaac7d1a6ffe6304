"""POST /v1/audio/speech: a text spoken by the model, as sound or as codes, streamed as it is
made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from rbee_worker.errors import FieldError, WrongModel
from rbee_worker.server.body import envelope, read_object
from rbee_worker.server.field_names import FieldNames
from rbee_worker.server.health import worker_of
from rbee_worker.server.openai.speech_schemas import FORMATS, SpeechEnvelope
from rbee_worker.server.pictures import from_url
from rbee_worker.server.requests import ignored, new_id, refuse_envelope, time_limit
from rbee_worker.server.served_models import served_model
from rbee_worker.types import Request, Speech

if TYPE_CHECKING:
    from rbee_worker.session.client import EngineClient
    from rbee_worker.speech.side import SpeechSide

NAMES = FieldNames({"prompt": "input"})
_FORMAT = {"mp3", "opus", "aac", "flac"}  # OpenAI's others


async def speech(http: HttpRequest) -> ASGIApp:
    """The endpoint of the route."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    engine = worker.generating()
    given, params, faults = envelope(body, SpeechEnvelope)
    served_model(worker, given.model)
    side = side_of(engine)
    from rbee_worker.server.sound import PARTS, Sound, SoundStream  # late: numpy

    clip = _clip(given.voice, faults)
    _check_form(given, side, faults)
    books = given.codebooks or side.books
    if books not in (side.first_books, side.books):
        allowed = " or ".join(str(n) for n in sorted({side.first_books, side.books}))
        message = f"must be {allowed}: what this model's stages make"
        faults.append(FieldError("codebooks", allowed, message, books))
    request = Request(
        id=new_id("speech"),
        prompt=given.input,
        params=params,
        surface="speech",
        timeout_s=time_limit(worker, given.timeout_s),
        speech=Speech(voice=b"", guidance=given.guidance_scale, books=books),
    )
    refuse_envelope(worker, faults, request, NAMES)
    voice, told = await _voice(given.voice, clip, side)
    request = msgspec.structs.replace(
        request, speech=Speech(voice=voice, guidance=given.guidance_scale, books=books)
    )
    with NAMES.used():
        (job,) = await worker.submit([request], keep=False)
    assert job.started is not None
    form = given.response_format
    speaking = side.speaking(
        job.started.prompt_ids, voice, job.started.seed, books=books, sound=form != "tokens"
    )
    rate = 0 if side.codec is None else side.codec.rate
    parts = PARTS[form, given.stream_format](rate)
    headers = {**ignored([job]), "X-Seed": str(job.started.seed)}
    if told:
        headers["X-Warning"] = "; ".join(told)
    return SoundStream(
        Sound(job, speaking, worker.observers.spoke),
        parts,
        headers=[(k.lower().encode(), v.encode("latin-1", "replace")) for k, v in headers.items()],
        gone=lambda: worker.abandon([job]),
        sent=partial(worker.sent, job),
    )


def side_of(engine: EngineClient) -> SpeechSide:
    """What the served model speaks with. Raises WrongModel if it does not."""
    assert engine.info is not None
    if engine.speech is None:
        why = "has no files beside its weights" if engine.info.purpose.speaks else "does not speak"
        raise WrongModel(
            f"the model {engine.info.model} {why}.", fix="ask a worker whose model speaks."
        )
    return engine.speech


def _clip(voice: str, faults: list[FieldError]) -> bytes | None:
    """The file of a voice that is a data URL; None for a name."""
    if ":" not in voice[:16]:
        return None
    found: list[FieldError] = []
    data = from_url(voice, "voice", found).data
    for fault in found:  # of pictures in all but this
        text = fault.message.replace("the picture", "the clip").replace("image/png", "audio/wav")
        faults.append(FieldError(fault.field, fault.constraint, text))
    return data


def _check_form(given: SpeechEnvelope, side: SpeechSide, faults: list[FieldError]) -> None:
    """Faults of fields that ask for another form than this worker gives."""
    form = given.response_format
    if form in _FORMAT:
        message = f"is {form}, which is not made here: ask for {', '.join(FORMATS)}"
        faults.append(FieldError("response_format", f"one of {', '.join(FORMATS)}", message, form))
    elif form != "tokens" and side.codec is None:
        message = (
            "asks for sound, and the worker has no codec: start it with --codec, or ask for tokens"
        )
        faults.append(FieldError("response_format", "tokens", message, form))
    if given.speed != 1.0:
        message = "is not implemented: the model chooses how fast it speaks"
        faults.append(FieldError("speed", "1.0", message, given.speed))
    if given.instructions:
        message = "is not implemented: the model follows its text and its voice alone"
        faults.append(FieldError("instructions", "absent", message))


async def _voice(name: str, clip: bytes | None, side: SpeechSide) -> tuple[bytes, Sequence[str]]:
    """The voice's embedding and warnings. Raises InvalidRequest, WrongModel."""
    if clip is None:
        return side.voice(name), ()
    return await asyncio.to_thread(side.heard, clip)
