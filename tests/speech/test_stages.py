"""Around the first stage: text and ids, ids and frames, the second stage, and the files."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.decoding import decode
from rbee_worker.errors import CheckpointError, InvalidRequest, UsageError
from rbee_worker.models.random import open_model
from rbee_worker.session.text import open_text
from rbee_worker.speech.frames import Frames
from rbee_worker.speech.second_stage import SecondStage, drawn
from rbee_worker.speech.words import spoken
from rbee_worker.tokenizer.ranked import ranked_tokenizer
from rbee_worker.verify.compare import relative_error as error
from tests import speaking

NAMES = tuple(speaking.SHAPES)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speaking.write(tmp_path_factory.mktemp("metavoice"))


# ---- text


def _ids(text: str) -> list[int]:
    """tiktoken's rule, from its description: within each piece of the pattern, the pair of the
    lowest rank is merged until there is none."""
    import regex  # type: ignore[import-untyped, unused-ignore]

    ranks = {t.encode(): 256 + n for n, t in enumerate(speaking.MERGED)}
    found = []
    for piece in regex.findall(speaking.PATTERN, text):
        parts = [bytes([b]) for b in piece.encode()]
        while True:
            pairs = [(ranks.get(a + b, 1 << 30), i) for i, (a, b) in enumerate(pairwise(parts))]
            if not pairs or min(pairs)[0] == 1 << 30:
                break
            at = min(pairs)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        found += [ranks.get(part, part[0]) for part in parts]
    return [speaking.TEXT + i for i in found]


@pytest.mark.parametrize("text", ["the thin man", "an inn, Anna", "Café 12!  the", "thethe in"])
def test_text_becomes_ranks_behind_the_tokens_of_sound(text: str, plain: Path) -> None:
    own = ranked_tokenizer(plain / "first_stage.meta.json")
    assert own.encode(text) == [*_ids(text), speaking.END_OF_TEXT]
    assert own.encode(text, add_special=False) == _ids(text)
    assert own.decode(own.encode(text)) == text.replace("\n", "\n")


def test_tokens_of_sound_have_names_that_no_text_reaches(plain: Path) -> None:
    own = ranked_tokenizer(plain / "first_stage.meta.json")
    assert own.decode([7, 1024 + 9, 2048], skip_special=False) == "<|0:7|><|1:9|><|end_of_audio|>"
    assert not {*own.encode("<|0:7|><|end_of_audio|>")[:-1]} & own.special_ids
    assert own.vocab_size == speaking.VOCAB


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"pat_str": None}, "pat_str"),
        ({"pat_str": "("}, "cannot be used"),
        ({"offset": None}, "offset"),
        ({"offset": 5}, "one id"),
        ({"special_tokens": {}}, "special token"),
        ({"mergeable_ranks": {"th": "x"}}, "rank"),
    ],
)
def test_a_damaged_tokenizer_is_refused(
    changes: dict[str, object], why: str, tmp_path: Path
) -> None:
    path = tmp_path / "first_stage.meta.json"
    made = speaking.meta()
    made["tokenizer"] |= changes
    path.write_text(json.dumps(made))
    with pytest.raises(CheckpointError, match=why):
        ranked_tokenizer(path)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("it’s “so” — fine…", 'it\'s "so" - fine...'),
        (" two\n lines\tand  * blanks ", "two lines and blanks"),
        ("naïve Ünder", "naïve Ünder"),
    ],
)
def test_text_is_made_plain(text: str, want: str) -> None:
    assert spoken(text) == want


def test_text_that_cannot_be_read_is_refused_by_its_characters() -> None:
    with pytest.raises(InvalidRequest) as found:
        spoken("ok 你好")
    assert "U+4F60, U+597D" in found.value.errors[0].message
    with pytest.raises(InvalidRequest):
        spoken(" \n ")


# ---- frames


def test_frames_are_pairs_of_codes_however_ids_come() -> None:
    ids = [3, 1024 + 5, 2100, 4, 9, 1024 + 6, 2048, 1024 + 7, 8]
    want = [(3, 5), (4, 6), (9, 7)]
    for size in (1, 2, len(ids)):
        frames, got = Frames(), []
        for n in range(0, len(ids), size):
            got += frames.push(ids[n : n + size])
        assert got == want
        assert (frames.strays, frames.unpaired) == (1, 1)


# ---- the second stage


@pytest.mark.parametrize("name", NAMES)
def test_the_second_stage_is_that_of_the_reference(name: str, tmp_path: Path) -> None:
    own = SecondStage(speaking.write(tmp_path, name) / "second_stage.safetensors")
    rng = np.random.default_rng(2)
    text = rng.integers(0, speaking.END_RANK + 1, 11).tolist()
    frames = [(int(a), int(b)) for a, b in rng.integers(0, 1024, (30, 2))]
    voice = speaking.voice(name, 1)
    for speaker in (voice, voice[:0]):
        want = speaking.second_logits(name, text, frames, speaker if len(speaker) else None)
        for got, one in zip(own.logits(text, frames, speaker), want, strict=True):
            assert error(got, one) < 1e-5
    codes = own.codes(text, frames, voice, seed=7)
    assert codes.shape == (8, 30)
    assert codes[:2].T.tolist() == [list(frame) for frame in frames]
    assert np.array_equal(codes, own.codes(text, frames, voice, seed=7))
    assert not np.array_equal(codes, own.codes(text, frames, voice, seed=8))
    assert codes.max() < 1024
    assert own.most(len(text)) == speaking.SHAPES[name].second_length - len(text) - 1


def test_codes_are_drawn_from_the_likeliest_as_often_as_they_are_likely() -> None:
    rng = np.random.default_rng(0)
    row = rng.normal(0, 2, 500).astype(np.float32)
    numbers = (np.arange(4000) + 0.5) / 4000
    got = np.bincount(drawn(np.tile(row, (4000, 1)), numbers), minlength=500) / 4000
    kept = row >= np.sort(row)[-200]
    want = np.where(kept, np.exp(row.astype(np.float64)), 0)
    assert np.abs(got - want / want.sum()).max() < 5e-4


# ---- files


def test_a_directory_without_config_has_the_published_heads(plain: Path, tmp_path: Path) -> None:
    for name in ("first_stage.safetensors", "first_stage.meta.json"):
        (tmp_path / name).write_bytes((plain / name).read_bytes())
    with pytest.raises(CheckpointError, match="other shapes"):  # 64 columns are not heads of 128
        open_checkpoint(str(tmp_path))


def test_a_published_shape_is_read_off_its_tensors() -> None:
    """candle's `first_stage.safetensors` has no config beside it."""
    from rbee_worker.checkpoint.formats import TensorInfo
    from rbee_worker.checkpoint.stages import read_shapes

    shapes = {
        "tok_embeddings.weight": (2562, 2048),
        "pos_embeddings.weight": (2048, 2048),
        "speaker_cond_pos.weight": (2048, 256),
        **{f"layers.{n}.attention.wqkv.weight": (6144, 2048) for n in range(24)},
        "layers.0.feed_forward.swiglu.w1.weight": (5632, 2048),
    }

    class Source:
        def names(self) -> list[str]:
            return list(shapes)

        def info(self, name: str) -> TensorInfo:
            return TensorInfo("BF16", shapes[name], 0)

    got = read_shapes(Source(), "x")  # type: ignore[arg-type]
    assert got == {
        "model_type": "metavoice",
        "vocab_size": 2562,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 2048,
        "speaker_embedding_size": 256,
    }


def test_candle_s_gguf_file_is_the_same_model(plain: Path, tmp_path: Path) -> None:
    packed = open_checkpoint(str(speaking.write_gguf(tmp_path / "g")))
    whole = open_checkpoint(str(plain))
    assert (packed.kind, packed.arch, packed.config) == ("gguf", "metavoice", whole.config)
    assert packed.stages == tmp_path / "g"
    for name in whole.source.names():
        got, want = decode(packed.source.read(name)), decode(whole.source.read(name))
        assert np.array_equal(got, want)


def test_what_is_beside_the_first_stage_is_told(plain: Path, tmp_path: Path) -> None:
    text = open_text(open_checkpoint(str(plain)))
    assert text.speech is not None
    assert text.speech.books == 8
    assert [*text.speech.voices] == ["default"]
    told = " ".join(text.speech.notes)
    assert "--codec" in told
    assert "speaker_encoder" in told
    alone = open_text(open_checkpoint(str(speaking.write(tmp_path, more=False))))
    assert alone.speech is not None
    assert alone.speech.books == 2
    assert "second_stage" in " ".join(alone.speech.notes)
    assert [(e.id, e.origins) for e in text.eos] == [(2048, ("config.json",))]


def test_a_codec_for_a_model_that_does_not_speak_is_refused(tmp_path: Path) -> None:
    from rbee_worker.config import Settings
    from tests import tiny

    folder = tiny.write_safetensors(tmp_path)
    with pytest.raises(UsageError, match="--codec"):
        open_text(open_checkpoint(str(folder)), Settings(codec="x"))


def test_a_random_first_stage_has_its_shape_from_a_config(plain: Path) -> None:
    ckpt = open_model(f"random:bf16:{plain}")
    assert ckpt.arch == "metavoice"
    assert ckpt.source.info("speaker_cond_pos.weight").shape == (64, 24)
