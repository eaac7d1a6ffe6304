"""Streamed text adds up to the one-shot decode, which is Hugging Face's."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models

from rbee_worker.errors import UnsupportedModel
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.tokenizer.pieces import Utf8Stream, decoding_of
from rbee_worker.tokenizer.stream import Detokenizer
from tests.tokenizer.builders import Source
from tests.tokenizer.conftest import Pair
from tests.tokenizer.texts import TEXTS

KINDS = ("byte_level", "llama", "t5")


def _pair(name: str, request: pytest.FixtureRequest) -> Pair:
    found: Pair = request.getfixturevalue(name)
    return found


def _stream(tokenizer: Tokenizer, ids: list[int], *, skip: bool) -> str:
    """Also checks, after every push, that nothing is held but one incomplete character."""
    out = Detokenizer(tokenizer, skip_special=skip)
    text, waiting = "", 0
    for at, token in enumerate(ids):
        new = out.push(token)
        text += new
        waiting = 0 if new else waiting + 1
        assert out.pending == waiting
        whole = tokenizer.decode(ids[: at + 1], skip_special=skip)
        assert whole.startswith(text)
        assert len(whole) - len(text) <= 3
        assert set(whole[len(text) :]) <= {"\ufffd"}
    return text + out.flush()


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_token_of_the_vocabulary(
    kind: str, skip: bool, request: pytest.FixtureRequest
) -> None:
    ours, hf = _pair(kind, request)
    word = next(i for i in range(ours.vocab_size) if ours.token_bytes(i) == b" the")
    for token in range(ours.vocab_size):
        for ids in ([token], [word, token], [token, token, word]):
            want = ours.decode(ids, skip_special=skip)
            assert _stream(ours, ids, skip=skip) == want
            assert want == hf(ids, skip), (token, ours.token_text(token))


@settings(max_examples=120, deadline=None)
@given(data=st.data(), skip=st.booleans())
@pytest.mark.parametrize("kind", KINDS)
def test_any_sequence_of_ids(
    kind: str, data: st.DataObject, skip: bool, request: pytest.FixtureRequest
) -> None:
    ours, hf = _pair(kind, request)
    # also ids that no token has: a model's head may have more rows than the vocabulary
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size + 3), max_size=24))
    want = ours.decode(ids, skip_special=skip)
    assert _stream(ours, ids, skip=skip) == want
    if kind != "llama":  # byte tokens in any order: see test_whole_characters_survive_broken_bytes
        assert want == hf(ids, skip)


@settings(max_examples=120, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_byte_tokens_that_make_characters(data: st.DataObject, skip: bool, llama: Pair) -> None:
    ours, hf = llama
    byte = {ours.token_bytes(i): i for i in range(3, 259)}
    char = st.characters(exclude_categories=("Cs",)).map(
        lambda c: [byte[bytes((b,))] for b in c.encode()]
    )
    piece = st.integers(259, ours.vocab_size - 1).map(lambda i: [i])
    parts = data.draw(st.lists(char | piece | st.sampled_from([[0], [1], [2]]), max_size=12))
    ids = [i for part in parts for i in part]
    assert _stream(ours, ids, skip=skip) == hf(ids, skip)


def test_whole_characters_survive_broken_bytes(llama: Pair) -> None:
    """Hugging Face turns a run of byte tokens with one broken byte wholly into U+FFFD; a stream
    cannot take back the characters it has sent, and SentencePiece keeps them too."""
    ours, hf = llama
    byte = {ours.token_bytes(i): i for i in range(3, 259)}
    ids = [byte[bytes((b,))] for b in "é".encode() + b"\xff" + "你".encode() + b"\xe4\xbd"]
    assert ours.decode(ids) == "é\ufffd你\ufffd\ufffd"
    assert hf(ids, True) == "\ufffd" * 8


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30) | st.sampled_from(TEXTS))
def test_text_survives_encoding_and_streaming(text: str, byte_level: Pair) -> None:
    ours = byte_level.ours
    ids = ours.encode(text, add_special=False)
    once = ours.decode(ids, skip_special=False)
    assert ours.encode(once, add_special=False) == ids
    assert _stream(ours, ids, skip=False) == once


def test_what_is_held_and_counted(byte_level: Pair) -> None:
    ours = byte_level.ours
    byte = {ours.token_bytes(i): i for i in range(ours.vocab_size) if i > 2}
    out = Detokenizer(ours)
    ids = [byte[bytes((b,))] for b in "😀".encode()]
    assert [out.push(i) for i in ids[:3]] == ["", "", ""]
    assert out.pending == 3
    assert out.push(ids[3]) == "😀"
    assert out.pending == 0
    assert out.push(1) == ""  # <|im_start|>, skipped
    assert out.push(ids[0]) == ""
    assert out.pending == 2
    assert out.push(byte[b"a"]) == "\ufffda"
    assert out.pending == 0
    out.push(ids[0])
    assert out.flush() == "\ufffd"
    assert out.flush() == ""


@settings(max_examples=120, deadline=None)
@given(data=st.binary(max_size=40), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_utf8_stream_equals_python(data: bytes, cuts: list[int]) -> None:
    stream = Utf8Stream()
    edges = sorted({0, len(data), *(min(c, len(data)) for c in cuts)})
    parts = [stream.push(data[a:b]) for a, b in pairwise(edges)]
    whole = "".join(parts) + stream.push(b"", final=True)
    assert whole == data.decode("utf-8", "replace")


def test_a_tokenizer_without_decoder_joins_with_blanks(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    path = tmp_path / "tokenizer.json"
    path.write_text(backend.to_str(), encoding="utf-8")
    ours = load_tokenizer(Source(files={"tokenizer.json": path}))
    assert ours.decode([1, 9, 2]) == backend.decode([1, 9, 2]) == "a b"
    assert _stream(ours, [9, 1, 9, 2], skip=True) == "a b"


def test_an_unknown_decoder_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match="'CTC' is not supported"):
        decoding_of(json.loads('{"type":"CTC","pad_token":"_","cleanup":true}'))
