"""From a clip to a speaker's embedding: WAV files, another rate, silence, mel bands, the LSTM."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from rbee_worker.speech.sound import BANDS, HOP, RATE, WINDOW, mel, resampled, trimmed
from rbee_worker.speech.speaker import FRAMES, SpeakerEncoder, windows
from rbee_worker.speech.wav import Clip, pcm, read_wav, wav_header
from rbee_worker.verify.compare import relative_error as error
from tests.speech import voices


@pytest.mark.parametrize("candle", [False, True])
def test_windows_are_those_of_torch(candle: bool, tmp_path: Path) -> None:
    frames = np.random.default_rng(1).gamma(0.5, 2.0, (5, FRAMES, BANDS)).astype(np.float32)
    own = SpeakerEncoder(voices.write(tmp_path, candle=candle))
    with torch.inference_mode():
        want = voices.Encoder(24).double()(torch.from_numpy(frames).double()).numpy()
    assert error(own.windows(frames), want) < 1e-5


def test_mel_bands_are_sums_of_power_under_triangles() -> None:
    """Each frame and band from the definition, one after another, in float64."""
    samples = voices.tone(0.11, RATE).astype(np.float32)
    padded = np.concatenate((np.zeros(WINDOW // 2), samples.astype(float), np.zeros(WINDOW // 2)))
    top = 15 + 27 * np.log(8) / np.log(6.4)  # of 8000 Hz, in Slaney's mels
    mels = np.linspace(0, top, BANDS + 2)
    edges = [200 / 3 * m if m < 15 else 1000 * 6.4 ** ((m - 15) / 27) for m in mels]
    want = np.zeros((1 + len(samples) // HOP, BANDS))
    time = np.arange(WINDOW)
    window = np.sin(np.pi * time / WINDOW) ** 2
    for frame in range(len(want)):
        part = padded[frame * HOP : frame * HOP + WINDOW] * window
        for bin_ in range(WINDOW // 2 + 1):
            power = abs((part * np.exp(-2j * np.pi * bin_ * time / WINDOW)).sum()) ** 2
            hertz = bin_ * RATE / WINDOW
            for band in range(BANDS):
                low, middle, high = edges[band : band + 3]
                up, down = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
                want[frame, band] += max(min(up, down), 0) * 2 / (high - low) * power
    assert error(mel(samples), want) < 1e-6


def test_a_clip_becomes_the_mean_of_its_windows(tmp_path: Path) -> None:
    own = SpeakerEncoder(voices.write(tmp_path))
    samples = voices.tone(4.0, RATE).astype(np.float32)
    got = own.embedding(Clip(samples, RATE))
    starts, length = windows(len(trimmed(samples)))
    assert starts == [0, 77, 154, 231]
    frames = mel(np.pad(trimmed(samples), (0, max(length - len(trimmed(samples)), 0))))
    with torch.inference_mode():
        each = [torch.from_numpy(frames[s : s + FRAMES])[None] for s in starts]
        want = voices.Encoder(24)(torch.cat(each)).mean(0)
    assert error(got, (want / want.norm()).numpy()) < 1e-5
    other = own.embedding(Clip(voices.tone(4.0, RATE, 2).astype(np.float32), RATE))
    assert float(got @ other) < 0.999


@pytest.mark.parametrize(
    ("seconds", "count"), [(0.3, 1), (1.61, 1), (2.38, 2), (1.9, 1), (30.0, 38)]
)
def test_how_many_windows_a_clip_has(seconds: float, count: int) -> None:
    """1.3 begin in a second, and the last one needs three quarters of sound."""
    assert len(windows(int(seconds * RATE))[0]) == count


@pytest.mark.parametrize(
    "rate", [8000, 22050, *(pytest.param(n, marks=pytest.mark.slow) for n in (24000, 44100, 48000))]
)
def test_another_rate_keeps_what_both_have(rate: int) -> None:
    """Tones below the rates' limits come out as they are, others not at all."""
    limit = min(rate, RATE) / 2
    for hertz in (200.0, 0.5 * limit, 0.85 * limit):
        at = np.arange(rate) / rate
        got = resampled(Clip(np.sin(2 * np.pi * hertz * at).astype(np.float32), rate))
        want = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)
        middle = slice(2000, len(got) - 2000)
        assert len(got) == RATE
        assert error(got[middle], want[middle]) < 1e-3
    if rate > RATE:
        high = np.sin(2 * np.pi * 1.1 * limit * np.arange(rate) / rate).astype(np.float32)
        assert np.abs(resampled(Clip(high, rate))[2000:-2000]).max() < 1e-3


def test_silence_at_the_ends_is_cut_off_and_none_within() -> None:
    tone = voices.tone(1.0, RATE)
    quiet = np.zeros(RATE)
    whole = np.concatenate((quiet, tone, 0.001 * tone, tone, quiet)).astype(np.float32)
    got = trimmed(whole)
    assert abs(len(got) - 3 * RATE) < 3 * 1024
    assert len(trimmed(np.zeros(9000, np.float32))) == 0


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_files_of_integers_are_read(width: int, channels: int) -> None:
    tone = voices.tone(0.2, 22050)
    got = read_wav(voices.clip(tone, 22050, width, channels), 1.0)
    assert got.rate == 22050
    assert np.abs(got.samples - tone).max() < 1.01 / 2 ** (8 * width - 1) + 1e-6


def extended(file: bytes, kind: int) -> bytes:
    """A WAV file of integers with the longer description that recorders and ffmpeg write, of that
    kind of samples, behind a chunk of another kind and an odd length."""
    _, channels, rate, second, frame, bits = struct.unpack_from("<HHIIHH", file, 20)
    form = struct.pack(
        "<HHIIHHHHIH", 0xFFFE, channels, rate, second, frame, bits, 22, bits, 0, kind
    )
    form += bytes.fromhex("000000001000800000aa00389b71")
    note = struct.pack("<4sI", b"LIST", 3) + b"abc\0"
    return b"RIFF\0\0\0\0WAVE" + note + struct.pack("<4sI", b"fmt ", len(form)) + form + file[36:]


@pytest.mark.parametrize("width", [2, 3, 4])
def test_the_extended_form_is_read_in_every_version_of_python(width: int) -> None:
    file = voices.clip(voices.tone(0.2, 48000), 48000, width, 2)
    plain, got = read_wav(file, 1.0), read_wav(extended(file, 1), 1.0)
    assert (got.rate, len(got.samples)) == (48000, 9600)
    assert np.array_equal(got.samples, plain.samples)
    with pytest.raises(ValueError, match="has samples that are not plain integers"):
        read_wav(extended(file, 3), 1.0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"ID3\x03rest", "is an MP3 file"),
        (b"OggS....", "is an Ogg file"),
        (b"fLaC....", "is a FLAC file"),
        (b"....ftypM4A ", "is an MP4 file"),
        (b"", "is no WAV file"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "is damaged"),
        (voices.clip(np.zeros(100), 4000), "has 4000 samples a second"),
        (voices.clip(np.zeros(30000), 8000), "lasts 4 s; 3 s are allowed"),
        (
            b"RIFF\x24\0\0\0WAVE" + struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, 8000, 1, 4, 32),
            "has samples that are not plain integers",
        ),
    ],
)
def test_other_files_are_refused_in_a_line(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as found:
        read_wav(data, 3.0)
    assert "\n" not in str(found.value)


def test_a_file_that_was_sent_as_it_was_made_is_read_to_its_end() -> None:
    tone = voices.tone(0.2, 24000).astype(np.float32)
    got = read_wav(wav_header(24000) + pcm(tone), 1.0)
    assert np.abs(got.samples - tone).max() < 1e-4
    assert wav_header(24000, 7)[40:] == struct.pack("<I", 14)
