"""Requests to a model that speaks: their text, their voice, and how long an answer may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from msgspec.structs import replace as replaced

from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.session.prepared import Prepared
from rbee_worker.types import Request, Resolved, SamplingParams, Speech

if TYPE_CHECKING:
    from rbee_worker.speech.side import SpeechSide


def read_aloud(prompt: str, speech: SpeechSide | None) -> str:
    """A prompt as the model reads it. Raises InvalidRequest."""
    if speech is None:
        return prompt
    from rbee_worker.speech.words import spoken  # late: few models speak

    return spoken(prompt, "prompt")


def settled(request: Request, resolved: Resolved, text: int, speech: SpeechSide | None) -> Resolved:
    """The parameters of an answer to `text` tokens: an answer is as long as its text asks for, and
    its tokens, which are all special ones, are shown. A second stage that is wanted has room for so
    many frames. Raises InvalidRequest."""
    if speech is None:
        return resolved
    params, origins = resolved.params, resolved.origins
    if request.speech is not None:
        _refuse(params, origins)
    given = origins.get("max_tokens") == "request"
    most = params.max_tokens if given else 1 << 30
    wanted = spoken_as(request, speech)
    if speech.second is not None and wanted.books > speech.first_books:
        room = speech.first_books * speech.second.most(text)
        if room < 1 or (given and most > room):
            field = "max_tokens" if room else "prompt"
            said = f"the second stage has room for {room} tokens beside a text of {text}"
            raise InvalidRequest([FieldError(field, f"<= {room} tokens", said)])
        most = min(most, room)
    params = replaced(params, max_tokens=most)
    if origins.get("skip_special_tokens") != "request":
        params = replaced(params, skip_special_tokens=False)
    return replaced(resolved, params=params)


def _refuse(params: SamplingParams, origins: Mapping[str, str]) -> None:
    """Raise InvalidRequest for what a spoken answer has no place for."""
    asked = {
        "echo": params.echo,
        "logprobs": params.logprobs is not None,
        "stop": bool(params.stop),
        "skip_special_tokens": origins.get("skip_special_tokens") == "request",
    }
    message = "has no place in an answer that is spoken"
    faults = [FieldError(name, "absent", message) for name, given in asked.items() if given]
    if faults:
        raise InvalidRequest(faults)


def voiced(made: Prepared, request: Request, speech: SpeechSide | None) -> Prepared:
    """The prepared request with its voice."""
    if speech is None:
        return made
    wanted = spoken_as(request, speech)
    return replace(made, voice=wanted.voice, guidance=wanted.guidance)


def spoken_as(request: Request, speech: SpeechSide) -> Speech:
    """How a request is spoken: as it says, or with the model's own voice, in the first stage's
    codebooks, because nothing but /v1/audio/speech makes more of them."""
    if request.speech is not None:
        return request.speech
    own = speech.voices.get(speech.own, b"")
    return Speech(voice=own, guidance=speech.guidance, books=speech.first_books)
