"""SentencePiece models, from their own files and from GGUF, against SentencePiece itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, normalizers
from transformers import AutoTokenizer

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.tokenizer.charsmap import check_charsmap
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.tokenizer.spm import read_sentencepiece
from tests.tokenizer.builders import Source, gguf_of_sentencepiece, train_sentencepiece
from tests.tokenizer.texts import TEXTS

# As published families train them. Llama: BPE, text untouched; T5: unigram, NMT-NFKC, blanks
# collapsed; Gemma: no blank before the text, digits split.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (
        "bpe",
        {
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "split_digits": True,
            "allow_whitespace_only_pieces": True,
        },
    ),
    "gemma": (
        "bpe",
        {
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "add_dummy_prefix": False,
            "split_digits": True,
            "allow_whitespace_only_pieces": True,
        },
    ),
    "t5": ("unigram", {"byte_fallback": False, "character_coverage": 1.0}),
    "unigram-bytes": ("unigram", {"normalization_rule_name": "identity"}),
    "nfkc-bpe": ("bpe", {}),
    "user-defined": (
        "bpe",
        {
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "add_dummy_prefix": False,
            "user_defined_symbols": ["<|sep|>", "quick", "\n\n"],
        },
    ),
}


@pytest.fixture(scope="module")
def trained() -> dict[str, bytes]:
    return {name: train_sentencepiece(kind, **opts) for name, (kind, opts) in KINDS.items()}


Loaded = dict[str, tuple[sentencepiece.SentencePieceProcessor, Tokenizer]]


@pytest.fixture(scope="module")
def loaded(trained: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("loaded")
    return {
        name: (
            sentencepiece.SentencePieceProcessor(model_proto=trained[name]),
            _from_file(trained[name], folder / "tokenizer.model"),
        )
        for name in ("llama", "gemma")
    }


def _from_file(data: bytes, path: Path, **config: Any) -> Tokenizer:
    path.write_bytes(data)
    source = Source(files={"tokenizer.model": path}, tokenizer_config=config)
    return load_tokenizer(source)


@pytest.mark.parametrize("name", KINDS)
def test_ids_and_text_equal_sentencepiece(
    name: str, trained: dict[str, bytes], tmp_path: Path
) -> None:
    sp = sentencepiece.SentencePieceProcessor(model_proto=trained[name])
    ours = _from_file(trained[name], tmp_path / "tokenizer.model")
    for text in TEXTS:
        if "\0" in text:  # SentencePiece's control separator
            text = text.replace("\0", "")
        ids = sp.encode(text)
        assert ours.encode(text, add_special=False, parse_special=False) == ids, text
        assert ours.decode(ids) == sp.decode(ids), text


def test_user_defined_pieces_are_found_before_merging(
    trained: dict[str, bytes], tmp_path: Path
) -> None:
    sp = sentencepiece.SentencePieceProcessor(model_proto=trained["user-defined"])
    ours = _from_file(trained["user-defined"], tmp_path / "tokenizer.model")
    for text in ("the quick brown", "a<|sep|>b", "quicker\n\n\nlazy dog"):
        ids = sp.encode(text)
        assert ours.encode(text, add_special=False, parse_special=False) == ids, text
        assert set(ids) & {3, 4, 5}
        assert ours.decode(ids) == sp.decode(ids) == text
    assert 3 not in ours.special_ids


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40))
@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_any_text_equals_sentencepiece(name: str, text: str, loaded: Loaded) -> None:
    sp, ours = loaded[name]
    ids = sp.encode(text)
    assert ours.encode(text, add_special=False, parse_special=False) == ids
    assert ours.decode(ids) == sp.decode(ids)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_any_ids_decode_as_sentencepiece_does(
    name: str, data: st.DataObject, loaded: Loaded
) -> None:
    """Also byte tokens in any order: whole characters survive among broken bytes.

    In one thing transformers and we differ from SentencePiece: a space that opens the text goes,
    also where it is a byte and no mark.
    """
    sp, ours = loaded[name]
    size = sp.get_piece_size()
    token = st.integers(3, size - 1) | st.integers(3, 258)
    ids = data.draw(st.lists(token, max_size=12))
    opens_with_space_byte = ids[:1] == [3 + ord(" ")] and ours.decoding.strip_left == 1
    assert (" " if opens_with_space_byte else "") + ours.decode(ids) == sp.decode(ids)


@pytest.mark.parametrize("ids", [[35], [35, 35], [35, 68], [68, 35], [300, 35]])
def test_a_space_byte_that_opens_a_text_goes_as_in_transformers(
    ids: list[int], loaded: Loaded
) -> None:
    sp, ours = loaded["llama"]
    steps = [
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(content=" ", left=1),
    ]  # LlamaConverter's
    assert ours.decode(ids) == decoders.Sequence(steps).decode([sp.id_to_piece(i) for i in ids])


@pytest.mark.parametrize(("name", "model"), [("llama", "llama"), ("gemma", "llama"), ("t5", "t5")])
def test_gguf_equals_the_model_file(
    name: str, model: str, trained: dict[str, bytes], tmp_path: Path
) -> None:
    proto = read_sentencepiece(trained[name])
    keys: dict[str, Any] = {"add_space_prefix": proto.prefix}
    if proto.collapse:
        keys["remove_extra_whitespaces"] = True
    if proto.charsmap:
        keys["precompiled_charsmap"] = list(proto.charsmap)
    path = tmp_path / "t.gguf"
    file = gguf_of_sentencepiece(path, trained[name], model, **keys)
    ours = load_tokenizer(Source(gguf=file))
    same = _from_file(trained[name], tmp_path / "tokenizer.model")
    assert ours.warnings == ()
    for text in TEXTS:
        ids = same.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == same.decode(ids)
        assert ours.encode(text, add_special=False) == same.encode(text, add_special=False)


def test_opening_and_closing_tokens(trained: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    sp = sentencepiece.SentencePieceProcessor(model_proto=trained["llama"])
    plain = sp.encode("Hello")
    assert _from_file(trained["llama"], path).encode("Hello") == [1, *plain]
    with_eos = _from_file(trained["llama"], path, add_eos_token=True)
    assert with_eos.encode("Hello") == [1, *plain, 2]
    neither = _from_file(trained["llama"], path, add_bos_token=False)
    assert neither.encode("Hello") == plain
    t5 = sentencepiece.SentencePieceProcessor(model_proto=trained["t5"]).encode("Hello")
    assert _from_file(trained["t5"], path).encode("Hello") == [*t5, 2]


def test_two_texts_are_opened_and_closed_as_in_transformers(
    trained: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained["llama"])
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for closes in (False, True):
        config = {**named, "add_bos_token": True, "add_eos_token": closes}
        told = {"tokenizer_class": "LlamaTokenizer", **config}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
        theirs = AutoTokenizer.from_pretrained(tmp_path)
        ours = _from_file(trained["llama"], tmp_path / "tokenizer.model", **config)
        found = ours.encode_texts("the dog", "a fox", most=100)
        assert found.ids == theirs("the dog", "a fox")["input_ids"]
        assert found.whole == len(found.ids)
        cut = ours.encode_texts("the dog", "a fox", most=found.whole - 1)
        assert (len(cut.ids), cut.whole) == (found.whole - 1, found.whole)


def test_legacy_blank_before_each_segment(trained: dict[str, bytes], tmp_path: Path) -> None:
    """Hugging Face's `legacy`: a blank before each text between special tokens, or only the
    first."""
    sp = sentencepiece.SentencePieceProcessor(model_proto=trained["llama"])
    path = tmp_path / "tokenizer.model"
    legacy = _from_file(trained["llama"], path).encode("</s>the dog", add_special=False)
    assert legacy == [2, *sp.encode("the dog")]
    new = _from_file(trained["llama"], path, legacy=False)
    bare = new.encode("</s>the dog", add_special=False)
    assert bare != legacy
    assert bare[0] == 2
    assert new.token_text(bare[1])[0] == "t"
    assert new.encode("the dog", add_special=False) == sp.encode("the dog")


def test_tokens_that_tokenizer_config_adds(trained: dict[str, bytes], tmp_path: Path) -> None:
    size = len(read_sentencepiece(trained["llama"]).pieces)
    added = {
        str(size): {"content": "<|user|>", "special": True, "normalized": False},
        str(size + 1): {"content": "<|end|>", "special": True, "rstrip": True},
    }
    ours = _from_file(
        trained["llama"],
        tmp_path / "tokenizer.model",
        added_tokens_decoder=added,
        eos_token="<|end|>",
    )
    assert ours.vocab_size == size + 2
    assert ours.eos_id == size + 1
    assert {size, size + 1} <= ours.special_ids
    assert ours.encode("<|user|><|end|>  \n", add_special=False) == [size, size + 1]
    assert ours.warnings == ()


def test_gemma_files_spell_runs_of_blanks_as_blanks(tmp_path: Path) -> None:
    """Converters write the user-defined pieces ▁▁ and ▁▁▁ with blanks and a score of -1000."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "  ", "   ", "▁", "a", "b", "▁a", "ab", "▁ab"]
    types = [3, 3, 3, 2, 4, 4, 1, 1, 1, 1, 1, 1]
    scores = [-1000.0] * 6 + [-6.0, -7.0, -8.0, -1.0, -2.0, -3.0]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_space_prefix": False,
    }
    ours = load_tokenizer(Source(gguf=type("G", (), {"metadata": metadata})()))
    assert ours.encode("ab   ab") == [2, 10, 5, 10]
    assert ours.encode("ab ab") == [2, 10, 11]
    assert ours.decode([10, 5, 10]) == "ab   ab"


@pytest.mark.parametrize("cut", [1, 7, 100, -1])
def test_a_cut_model_is_refused(cut: int, trained: dict[str, bytes]) -> None:
    with pytest.raises(CheckpointError, match=r"damaged.*Fix: "):
        read_sentencepiece(trained["llama"][:cut])


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=60))
def test_noise_is_refused_and_never_a_traceback(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        read_sentencepiece(data)


def test_word_models_are_not_supported() -> None:
    with pytest.raises(UnsupportedModel, match="type 3 is not supported"):
        read_sentencepiece(train_sentencepiece("word", byte_fallback=False)).build()


def _unigram_metadata(**changes: Any) -> dict[str, Any]:
    found = {
        "model": "t5",
        "tokens": ["<pad>", "</s>", "<unk>", "▁a", "b"],
        "token_type": [3, 3, 2, 1, 1],
        "scores": [0.0, 0.0, 0.0, -1.0, -2.0],
        **changes,
    }
    return {f"tokenizer.ggml.{k}": v for k, v in found.items() if v is not None}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scores": [float("nan")] * 5}, "not all finite"),
        ({"scores": None}, "no scores"),
        ({"tokens": [], "token_type": [], "scores": []}, "has no tokens"),
        ({"precompiled_charsmap": [1, 2, 3]}, "character map is damaged"),
        ({"precompiled_charsmap": [0] * 4}, "character map is damaged"),
        ({"precompiled_charsmap": [4, 0, 0, 0] + [0] * 4}, "character map is damaged"),
        ({"precompiled_charsmap": [255] * 100}, "character map is damaged"),
        ({"token_type": [1] * 5, "unknown_token_id": 9}, "unknown_token_id is 9, outside"),
        ({"eos_token_id": True}, "eos_token_id is True, outside"),
    ],
)
def test_damaged_unigram_vocabularies(changes: dict[str, Any], says: str) -> None:
    meta = _unigram_metadata(**changes)
    with pytest.raises(CheckpointError, match=says):
        load_tokenizer(Source(gguf=type("G", (), {"metadata": meta})()))


def test_tokens_spelled_alike_are_a_warning() -> None:
    meta = _unigram_metadata(tokens=["<pad>", "</s>", "<unk>", "▁a", "▁a"])
    ours = load_tokenizer(Source(gguf=type("G", (), {"metadata": meta})()))
    assert ours.warnings == ("1 tokens of the GGUF file are spelled like others: never encoded",)
    assert ours.decode([3, 4]) == "a a"


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_character_map_never_panics(
    data: st.DataObject, trained: dict[str, bytes]
) -> None:
    """Either it is refused when loaded, or text can be normalised with it."""
    assert check_charsmap(b"") == b""
    charsmap = bytearray(read_sentencepiece(trained["t5"]).charsmap)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(charsmap) - 1) | st.integers(0, 2000))
        charsmap[at] = data.draw(st.integers(0, 255))
    try:
        checked = check_charsmap(bytes(charsmap))
    except CheckpointError:
        return
    normaliser = normalizers.Precompiled(checked)
    for text in TEXTS:
        normaliser.normalize_str(text)
