"""EnCodec's decoder against transformers' model, whole and piece by piece."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.speech.codec import BLOCK, Codec
from rbee_worker.verify.compare import relative_error as error
from tests.speech import codec


@pytest.fixture(scope="module", params=tuple(codec.SHAPES))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    folder = tmp_path_factory.mktemp("codec")
    own = Codec(codec.write(folder, request.param))
    own.__dict__["name"] = request.param
    return own


def codes(books: int, frames: int) -> np.ndarray:
    return np.random.default_rng(frames).integers(0, 1024, (books, frames))


@pytest.mark.parametrize("frames", [1, 5, BLOCK - 1, BLOCK, 2 * BLOCK + 7])
@pytest.mark.parametrize("books", [2, 8])
def test_samples_are_those_of_transformers(made: Codec, frames: int, books: int) -> None:
    given = codes(books, frames)
    want = codec.sound(made.__dict__["name"], torch.from_numpy(given))
    got = made.samples(given)
    assert got.shape == want.shape == (frames * made.hop,)
    assert error(got, want) < 1e-5


def test_a_sound_has_the_same_bits_however_its_frames_come(made: Codec) -> None:
    given = codes(8, 3 * BLOCK + 5)
    whole = made.samples(given)
    for size in (1, 7, BLOCK, BLOCK + 1):
        decoding = made.decoding()
        parts = [decoding.push(given[:, n : n + size]) for n in range(0, given.shape[1], size)]
        assert np.array_equal(np.concatenate([*parts, decoding.end()]), whole)
        early = sum(map(len, parts[: len(parts) // 2]))
        assert early >= (len(parts) // 2 * size // BLOCK) * BLOCK * made.hop  # nothing waits


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "dac"),
        ("norm_type", "time_group_norm"),
        ("use_causal_conv", False),
        ("audio_channels", 2),
        ("normalize", True),
        ("pad_mode", "circular"),
        ("kernel_size", 99),
    ],
)
def test_other_codecs_are_refused_by_what_is_other(key: str, value: object, tmp_path: Path) -> None:
    codec.write(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UnsupportedModel, match="24 kHz"):
        Codec(tmp_path)


def test_a_size_that_does_not_fit_names_the_tensor(tmp_path: Path) -> None:
    codec.write(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_filters": 8}))
    with pytest.raises(CheckpointError, match=r"decoder\.layers\.0\.conv"):
        Codec(tmp_path)
