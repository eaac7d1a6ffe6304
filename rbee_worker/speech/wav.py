"""WAV files: a speaker's clip is read, an answer written as it comes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

UNKNOWN = 0xFFFFFFFF  # the length of a file that is sent while it is made
HEADER_BYTES = 44
_INTEGERS, _EXTENDED = 1, 0xFFFE  # kinds of samples; the extended form has its kind further on
_CHUNKS = 1000  # of a file that are looked at
_CONVERT = "convert it to WAV with 16-bit samples"
LEAST_RATE, MOST_RATE = 8000, 192000
MOST_CHANNELS = 8
_OTHERS = (  # beginnings of files of other kinds
    (b"ID3", "an MP3 file"),
    (b"\xff\xfb", "an MP3 file"),
    (b"\xff\xf3", "an MP3 file"),
    (b"\xff\xf1", "an AAC file"),
    (b"OggS", "an Ogg file (Opus or Vorbis)"),
    (b"fLaC", "a FLAC file"),
    (b"\x1aE\xdf\xa3", "a WebM file"),
    (b"FORM", "an AIFF file"),
)


@dataclass(frozen=True)
class Clip:
    """Sound: one channel, values from -1 to 1. rate: samples a second."""

    samples: F32
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def read_wav(data: bytes, most_s: float) -> Clip:
    """A WAV file of at most `most_s` seconds, its channels averaged. Raises ValueError with what is
    wrong, as the end of a sentence about the file."""
    if not (data.startswith(b"RIFF") and data[8:12] == b"WAVE"):
        kinds = (what for start, what in _OTHERS if data.startswith(start))
        kind = "an MP4 file (AAC)" if data[4:8] == b"ftyp" else next(kinds, "no WAV file")
        raise ValueError(f"is {kind}; {_CONVERT}")
    (channels, rate, width), sound = _chunks(data)
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise ValueError(f"has {rate} samples a second; {LEAST_RATE} to {MOST_RATE} are read")
    if not 1 <= channels <= MOST_CHANNELS:
        raise ValueError(f"has {channels} channels; 1 to {MOST_CHANNELS} are read")
    if width not in (1, 2, 3, 4):
        raise ValueError(f"has samples of {8 * width} bits; 8, 16, 24 and 32 are read")
    frames = len(sound) // (width * channels)
    if frames > most_s * rate:
        raise ValueError(f"lasts {frames / rate:.0f} s; {most_s:.0f} s are allowed")
    values = _values(sound[: frames * width * channels], width).reshape(-1, channels)
    return Clip(
        np.ascontiguousarray(values.mean(axis=1, dtype=np.float64).astype(np.float32)), rate
    )


def _chunks(data: bytes) -> tuple[tuple[int, int, int], bytes]:
    """What a file says of its samples, as `_form` reads it, and these; a size that is larger than
    the file ends with it. Raises ValueError."""
    at, form = 12, None
    for _ in range(_CHUNKS):
        if at + 8 > len(data):
            break
        name, size = struct.unpack_from("<4sI", data, at)
        content = data[at + 8 : at + 8 + size]
        if name == b"data" and form is not None:
            return form, content
        if name == b"fmt ":
            form = _form(content)
        at += 8 + size + size % 2
    raise ValueError(f"is damaged; {_CONVERT}")


def _form(form: bytes) -> tuple[int, int, int]:
    """Channels, samples a second and bytes of a sample. Raises ValueError for other samples than
    plain integers; Python's `wave` knows the extended form, and tells floats from integers, in some
    versions only."""
    if len(form) < 16:
        raise ValueError(f"is damaged; {_CONVERT}")
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", form)
    if kind == _EXTENDED and len(form) >= 26:
        (kind,) = struct.unpack_from("<H", form, 24)
    if kind != _INTEGERS:
        raise ValueError(f"has samples that are not plain integers; {_CONVERT}")
    return channels, rate, -(-bits // 8)


def _values(raw: bytes, width: int) -> NDArray[np.float64]:
    """Samples of `width` bytes, little-endian (those of one byte are unsigned), from -1 to 1."""
    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) / 128
    if width == 3:
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return wide.reshape(-1).view("<i4").astype(np.float64) / 2**31
    values: NDArray[np.float64] = np.frombuffer(raw, f"<i{width}").astype(np.float64)
    return values / float(2 ** (8 * width - 1))


def pcm(samples: F32) -> bytes:
    """Samples from -1 to 1 as 16-bit integers, little-endian; louder ones are cut."""
    return np.rint(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()


def wav_header(rate: int, samples: int | None = None) -> bytes:
    """The header of a WAV file of one channel with 16-bit samples. samples: how many there are;
    None: that is not known yet, and readers go on to the end of the file."""
    size = UNKNOWN if samples is None else 2 * samples
    riff = UNKNOWN if samples is None else size + HEADER_BYTES - 8
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size),
    )
