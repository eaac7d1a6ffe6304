"""The request of /v1/audio/speech, and what its streams of events and its codes look like."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from rbee_worker.server.schemas import Model, Seconds

FORMATS = ("wav", "pcm", "tokens")
Guidance = Annotated[float, Meta(ge=0.0, le=10.0)]


class SpeechEnvelope(Struct, kw_only=True):
    """voice: a name, none, or a clip as data:audio/wav;base64,... guidance_scale: how closely the
    voice is followed; 1 = as it comes. codebooks: 2 = the first stage's, which leave as they are
    drawn. response_format: mp3, opus, aac and flac are refused; tokens = codes instead of sound."""

    input: Annotated[str, Meta(min_length=1)]
    model: Model | None = None
    voice: str = "default"
    response_format: Literal["wav", "pcm", "tokens", "mp3", "opus", "aac", "flac"] = "wav"
    stream_format: Literal["audio", "sse"] = "audio"
    speed: float = 1.0
    instructions: str = ""
    guidance_scale: Guidance = 3.0
    codebooks: Annotated[int, Meta(ge=2, le=8)] | None = None
    timeout_s: Seconds | None = None


class SpeechUsage(Struct, frozen=True, kw_only=True):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class AudioDelta(Struct, frozen=True, kw_only=True, tag="speech.audio.delta", tag_field="type"):
    """audio: the next piece of the file, in base64."""

    audio: str


class CodesDelta(Struct, frozen=True, kw_only=True, tag="speech.codes.delta", tag_field="type"):
    """codes: of the next frames, one list for each codebook."""

    codes: list[list[int]]


class SpeechDone(Struct, frozen=True, kw_only=True, tag="speech.audio.done", tag_field="type"):
    """frames: how many there were; stop: the rule that ended the answer; strays: tokens that were
    no codes; unpaired: codes of a frame that was not complete."""

    usage: SpeechUsage
    frames: int
    stop: str
    seed: int
    strays: int = 0
    unpaired: int = 0


class Codes(Struct, frozen=True, kw_only=True):
    """The answer in tokens: codes of all frames, one list for each codebook."""

    object: Literal["speech.codes"] = "speech.codes"
    codes: list[list[int]]
    frames: int
    stop: str
    seed: int
    usage: SpeechUsage
    strays: int = 0
    unpaired: int = 0
