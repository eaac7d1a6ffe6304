"""`SpeechSide`: what a model that speaks has beside its engine: voices, a second stage, a codec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rbee_worker.checkpoint.reading import inside, read_bytes
from rbee_worker.checkpoint.tokenizer_files import META
from rbee_worker.config import Settings
from rbee_worker.errors import CheckpointError, FieldError, InvalidRequest, UsageError, WrongModel
from rbee_worker.speech.codec import Codec
from rbee_worker.speech.second_stage import SecondStage
from rbee_worker.speech.speaker import SpeakerEncoder
from rbee_worker.speech.speaking import Speaking
from rbee_worker.speech.tensors import Tensors
from rbee_worker.speech.wav import read_wav
from rbee_worker.tokenizer.ranked import text_offset

if TYPE_CHECKING:
    from rbee_worker.checkpoint import Checkpoint

F32 = NDArray[np.float32]

DEFAULT, NO_VOICE = "default", "none"
GUIDANCE = 3.0  # the authors' default
BOOKS = 2  # of the first stage
LEAST_S, MOST_S = 2.0, 120.0  # seconds of a clip
ADVISED_S = 30.0  # the authors ask for that much
_SECOND, _SPEAKER, _OWN, _VOICES = (
    "second_stage.safetensors",
    "speaker_encoder.safetensors",
    "spk_emb.safetensors",
    "voices",
)
_EMBEDDING = "spk_emb"
_MOST_FILE = 64 << 20  # bytes of a clip in the directory of voices


@dataclass(frozen=True)
class SpeechSide:
    """size: numbers of a speaker's embedding; offset: of the ids of text; voices: by name, float32
    little-endian. second, speaker, codec: None where there is none."""

    size: int
    offset: int
    voices: Mapping[str, bytes] = field(default_factory=dict)
    second: SecondStage | None = None
    speaker: SpeakerEncoder | None = None
    codec: Codec | None = None
    own: ClassVar[str] = DEFAULT  # the name of the voice of requests that name none
    guidance: ClassVar[float] = GUIDANCE  # of requests that say none
    first_books: ClassVar[int] = BOOKS

    @property
    def books(self) -> int:
        """The most codebooks of an answer."""
        return BOOKS if self.second is None else self.second.books

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of what is missing."""
        told = []
        if self.codec is None:
            told.append("there is no --codec: answers are codes, not sound")
        elif self.codec.books < self.books:
            told.append(f"the codec has {self.codec.books} codebooks: the others are not used")
        if self.second is None:
            told.append(f"there is no {_SECOND}: codes of {BOOKS} codebooks, which sound rough")
        if self.speaker is None:
            told.append(f"there is no {_SPEAKER}: voices are those of {_OWN} and {_VOICES}/ only")
        return tuple(told)

    def voice(self, name: str, where: str = "voice") -> bytes:
        """The embedding of a named voice; b"" for none. Raises InvalidRequest."""
        if name == NO_VOICE:
            return b""
        if name in self.voices:
            return self.voices[name]
        known = ", ".join((*sorted(self.voices), NO_VOICE))
        own = " or a clip (data:audio/wav;base64,...)" if self.speaker is not None else ""
        message = f"is not a voice of this model; there are: {known}{own}"
        raise InvalidRequest([FieldError(where, "a known voice", message, name[:64])])

    def heard(self, clip: bytes, where: str = "voice") -> tuple[bytes, tuple[str, ...]]:
        """The embedding of the speaker of a WAV file, and warnings. Raises InvalidRequest, or
        WrongModel where there is no speaker encoder."""
        if self.speaker is None:
            raise WrongModel(
                "this model has no speaker encoder, so a clip cannot become a voice.",
                fix=f"put {_SPEAKER} into the model's directory, or name a voice.",
            )
        try:
            read = read_wav(clip, MOST_S)
            if read.seconds < LEAST_S:
                raise ValueError(f"lasts {read.seconds:.1f} s; at least {LEAST_S:.0f} s are needed")
            made = self.speaker.embedding(read).astype("<f4").tobytes()
        except ValueError as error:
            wanted = f"a WAV file of {LEAST_S:.0f} to {MOST_S:.0f} s"
            raise InvalidRequest([FieldError(where, wanted, str(error))]) from None
        short = read.seconds < ADVISED_S
        told = f"{where}: {read.seconds:.0f} s of a voice; its authors ask for {ADVISED_S:.0f} s"
        return made, (told,) if short else ()

    def speaking(
        self, prompt: Sequence[int], voice: bytes, seed: int, *, books: int, sound: bool
    ) -> Speaking:
        """An answer to a prompt's ids, in so many codebooks; sound: not codes."""
        return Speaking(
            [token - self.offset for token in prompt if token >= self.offset],
            voice=np.frombuffer(voice, "<f4").astype(np.float32),
            seed=seed,
            codec=self.codec if sound else None,
            second=self.second if books > BOOKS else None,
        )


def open_speech(ckpt: Checkpoint, folder: Path, settings: Settings) -> SpeechSide:
    """What a model that speaks has in its directory. Raises subclasses of ModelError, and
    UsageError."""
    size = ckpt.source.info("speaker_cond_pos.weight").shape[1]
    speaker = _part(folder, _SPEAKER, SpeakerEncoder)
    if speaker is not None and speaker.size != size:
        raise CheckpointError(
            f"{folder / _SPEAKER}: makes {speaker.size} numbers, the model reads {size}.",
            fix="download both again; they belong to different models",
        )
    return SpeechSide(
        size=size,
        offset=text_offset(inside(folder, folder / META)) if META in ckpt.files else 0,
        voices=_voices(folder, size, speaker),
        second=_part(folder, _SECOND, SecondStage),
        speaker=speaker,
        codec=_codec(settings),
    )


def _part(folder: Path, name: str, kind: Any) -> Any:
    path = folder / name
    return kind(inside(folder, path)) if path.is_file() else None


def _codec(settings: Settings) -> Codec | None:
    if not settings.codec:
        return None
    from rbee_worker.checkpoint.refs import resolve  # late: a heavy import

    path = resolve(settings.codec, cache_dir=settings.cache_dir)
    if not path.is_dir():
        raise UsageError(
            f"--codec {settings.codec} is not a directory.",
            fix="give the directory of facebook/encodec_24khz (config.json, model.safetensors).",
        )
    return Codec(path)


def _voices(folder: Path, size: int, speaker: SpeakerEncoder | None) -> dict[str, bytes]:
    """The voices of a directory: its own, embeddings in `voices`, and clips there, if there is an
    encoder for them. Raises CheckpointError."""
    found: dict[str, bytes] = {}
    if (folder / _OWN).is_file():
        found[DEFAULT] = _embedding(inside(folder, folder / _OWN), size)
    for path in sorted((folder / _VOICES).glob("*")):
        if path.suffix == ".safetensors":
            found[path.stem] = _embedding(inside(folder, path), size)
        elif path.suffix == ".wav" and speaker is not None:
            try:
                clip = read_wav(read_bytes(inside(folder, path), _MOST_FILE), MOST_S)
                found[path.stem] = speaker.embedding(clip).astype("<f4").tobytes()
            except ValueError as error:
                raise CheckpointError(f"{path}: {error}.", fix="replace or remove it") from None
    return found


def _embedding(path: Path, size: int) -> bytes:
    values = Tensors(path).take(_EMBEDDING).reshape(-1)
    if values.size != size or not np.isfinite(values).all():
        raise CheckpointError(
            f"{path}: {_EMBEDDING} has {values.size} numbers; the model reads {size} finite ones.",
            fix="use an embedding of this model's speaker encoder",
        )
    return values.astype("<f4").tobytes()
