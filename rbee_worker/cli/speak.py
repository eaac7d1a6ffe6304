"""`rbee-worker speak`: a text as a WAV file, or as codes."""

from __future__ import annotations

import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import msgspec
from click.exceptions import Exit

from rbee_worker.cli.adapter import only_adapter
from rbee_worker.cli.generate import as_flags
from rbee_worker.cli.given import given_text
from rbee_worker.cli.terminal import aside, note
from rbee_worker.config import Settings
from rbee_worker.errors import INTERRUPTED, InferenceFailed, InvalidRequest, UsageError, WrongModel
from rbee_worker.types import End, Error, Event, Request, Speech, Started, Token

if TYPE_CHECKING:
    from rbee_worker.session.client import EngineClient
    from rbee_worker.speech.side import SpeechSide
    from rbee_worker.speech.speaking import Codes


@click.argument("text", required=False, help="what is said; - reads it from stdin")
@click.option(
    "-o", "--out", metavar="FILE", help="a new or old .wav file; .json = codes; - = stdout"
)
@click.option("--voice", metavar="NAME", default="default", help="a voice of the model, or none")
@click.option("--clip", metavar="FILE", help="a WAV file of the voice, 2 to 120 s long")
@click.option(
    "--guidance-scale",
    type=click.FloatRange(0, 10),
    default=3.0,
    help="how closely the voice is followed",
)
@click.option("--codebooks", type=int, help="2 = what the first stage draws; default all")
@click.option("--quiet", "-q", is_flag=True, help="print nothing but errors")
def speak(
    settings: Settings,
    sampling: dict[str, Any],
    text: str | None,
    out: str | None,
    voice: str,
    clip: str | None,
    guidance_scale: float,
    codebooks: int | None,
    quiet: bool,
) -> None:
    """Say a text in a WAV file. Needs a model that speaks, and --codec for sound."""
    if out is None:
        raise UsageError("no file to write to.", fix="give -o out.wav.")
    words = given_text(text, "text", 'rbee-worker speak "Good morning." -o out.wav')
    only_adapter(settings)
    import asyncio  # imported late: --help is quicker without it

    asked = _Asked(words, out, voice, clip, guidance_scale, codebooks, sampling, quiet)
    code = asyncio.run(_speak(settings, asked))
    if code:
        raise Exit(code)


class _Asked(msgspec.Struct, frozen=True):
    """The options of one call."""

    text: str
    out: str
    voice: str
    clip: str | None
    guidance: float
    codebooks: int | None
    sampling: dict[str, Any]
    quiet: bool

    @property
    def sound(self) -> bool:
        """Whether sound is wanted, not codes."""
        return not self.out.endswith(".json")


async def _speak(settings: Settings, asked: _Asked) -> int:
    """Run the request; returns the exit code."""
    import asyncio

    from rbee_worker.cli.interrupt import Interrupt
    from rbee_worker.cli.session import open_engine

    interrupt = Interrupt()
    try:
        with interrupt.watch():
            async with open_engine(settings, quiet=asked.quiet) as client:
                request, told = _request(client, asked)
                for text in told if not asked.quiet else ():
                    note(text)
                with interrupt.ends(lambda: client.cancel(request.id)):
                    await _write(client, request, asked)
    except InvalidRequest as error:
        raise UsageError(as_flags(error), fix=error.usual_fix) from error
    except asyncio.CancelledError:
        return INTERRUPTED
    return INTERRUPTED if interrupt.pressed else 0


def _request(client: EngineClient, asked: _Asked) -> tuple[Request, Sequence[str]]:
    """The request, and warnings about its voice. Raises WrongModel, InvalidRequest, UsageError."""
    side = _side(client)
    if asked.sound and side.codec is None:
        raise UsageError(
            "sound needs a codec.", fix="give --codec DIRECTORY, or -o out.json for codes."
        )
    books = asked.codebooks or side.books
    if books not in (side.first_books, side.books):
        raise UsageError(
            f"--codebooks {books}: this model's stages make {side.first_books} or {side.books}.",
            fix="leave it out.",
        )
    told: Sequence[str] = ()
    if asked.clip is None:
        voice = side.voice(asked.voice, "--voice")
    else:
        try:
            data = Path(asked.clip).read_bytes()
        except OSError as error:
            raise UsageError(f"--clip {asked.clip}: {error.strerror}.", fix="check it.") from None
        voice, told = side.heard(data, "--clip")
    request = Request(
        id=f"speak-{uuid.uuid4().hex[:12]}",
        prompt=asked.text,
        params=asked.sampling,
        surface="generate",
        speech=Speech(voice=voice, guidance=asked.guidance, books=books),
    )
    return request, told


def _side(client: EngineClient) -> SpeechSide:
    if client.text.speech is None:
        raise WrongModel(
            f"the model {client.settings.model} does not speak.", fix="give one that does."
        )
    return client.text.speech


async def _write(client: EngineClient, request: Request, asked: _Asked) -> None:
    """Say it, and write it to its file."""
    events = client.generate(request)
    started = await anext(events)
    assert isinstance(started, Started)
    side, speech = _side(client), request.speech
    assert speech is not None
    speaking = side.speaking(
        started.prompt_ids, speech.voice, started.seed, books=speech.books, sound=asked.sound
    )
    found = [speaking.push(ids) async for ids in _ids(events)]
    found += list(speaking.end())
    if not asked.sound:
        rows = [
            [code for part in found for code in part[book].tolist()] for book in range(speech.books)
        ]
        _save(asked.out, msgspec.json.encode({"codes": rows, "seed": started.seed}) + b"\n")
        return
    from rbee_worker.speech.wav import pcm, wav_header

    samples = b"".join(
        pcm(part) for part in (*(speaking.samples(codes) for codes in found), speaking.rest())
    )
    assert side.codec is not None
    _save(asked.out, wav_header(side.codec.rate, len(samples) // 2) + samples)
    if not asked.quiet:
        seconds = len(samples) / 2 / side.codec.rate
        aside(f"{seconds:.1f} s of sound, {_frames(found)} frames, seed {started.seed}")


def _frames(found: Sequence[Codes]) -> int:
    return sum(part.shape[1] for part in found)


async def _ids(events: AsyncIterator[Event]) -> AsyncIterator[Sequence[int]]:
    """The ids of an answer. Raises InferenceFailed if it fails."""
    async for event in events:
        if isinstance(event, Token | End):
            yield event.ids
        elif isinstance(event, Error):
            raise InferenceFailed(event.message)


def _save(out: str, data: bytes) -> None:
    if out == "-":
        target: BinaryIO = sys.stdout.buffer
        target.write(data)
        target.flush()
        return
    try:
        Path(out).write_bytes(data)
    except OSError as error:
        raise UsageError(f"-o {out}: {error.strerror}.", fix="choose another file.") from None
