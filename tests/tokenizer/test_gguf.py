"""What GGUF metadata leaves open, and how it is filled in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from transformers.models.gemma.tokenization_gemma import GemmaTokenizer

from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.eos import eos_set
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.tokenizer.spm import read_sentencepiece
from rbee_worker.tokenizer.vocabulary import merges_by_score
from tests.checkpoint.limits import refusal
from tests.tokenizer.builders import (
    Source,
    gguf_of_byte_level,
    train_byte_level,
    train_sentencepiece,
)
from tests.tokenizer.published import PUBLISHED
from tests.tokenizer.texts import TEXTS


def _load(metadata: dict[str, Any]) -> Tokenizer:
    full = {k if "." in k else f"tokenizer.ggml.{k}": v for k, v in metadata.items()}
    return load_tokenizer(Source(gguf=type("G", (), {"metadata": full})()))


def test_gemma4_vocabulary_equals_gemmas_tokenizer() -> None:
    """SentencePiece pieces with explicit merges; bytes for what has no piece."""
    rules = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    model = read_sentencepiece(train_sentencepiece("bpe", add_dummy_prefix=False, **rules))
    merges = merges_by_score(model.vocabulary)
    hf = GemmaTokenizer(
        vocab={piece: i for i, piece in enumerate(model.pieces)},
        merges=merges,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        mask_token="<unk>",
    )
    ours = _load(
        {
            "model": "gemma4",
            "pre": "gemma4",
            "tokens": model.pieces,
            "token_type": model.types,
            "merges": [" ".join(pair) for pair in merges],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "add_bos_token": False,
        }
    )
    assert ours.warnings == ()
    for text in TEXTS:
        ids = hf.encode(text, add_special_tokens=False)
        assert ours.encode(text) == ids, text
        want = hf.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert ours.decode(ids, skip_special=False) == want


def test_phi3_specials_swallow_the_blanks_after_them() -> None:
    metadata = {
        "general.architecture": "phi3",
        "model": "llama",
        "tokens": ["<unk>", "<s>", "</s>", "▁", "a", "\n", "<|endoftext|>", "<|user|>", "<|end|>"],
        "token_type": [2, 3, 3, 1, 1, 1, 3, 3, 3],
        "scores": [0.0, 0.0, 0.0, -1.0, -2.0, -3.0, 0.0, 0.0, 0.0],
        "add_bos_token": False,
    }
    published = _load(metadata)
    assert published.encode("<|user|>\na<|end|>\n ") == [7, 3, 4, 8]
    assert published.encode("<s>\n") == [1, 3, 5]
    assert published.encode("<|endoftext|>\n") == [6, 3, 5]
    other = _load({**metadata, "general.architecture": "llama"})
    assert other.encode("<|user|>\na") == [7, 3, 5, 4]


def test_without_token_types_the_named_ids_are_special(tmp_path: Path) -> None:
    made = train_byte_level(*PUBLISHED["gpt-2"])
    file = gguf_of_byte_level(tmp_path / "t.gguf", made, "gpt-2", bos_token_id=1, eot_token_id=2)
    meta = {k: v for k, v in file.metadata.items() if k != "tokenizer.ggml.token_type"}
    ours = _load(meta)
    assert ours.special_ids == {1, 2}
    assert ours.encode("<|im_start|>a<|im_end|>")[:1] == [1]
    assert len(ours.encode("<|endoftext|>")) > 1


def test_scores_that_say_nothing_are_a_warning() -> None:
    metadata = {
        "model": "llama",
        "tokens": ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab"],
        "token_type": [2, 3, 3, 1, 1, 1, 1],
        "scores": [-1000.0] * 7,
    }
    ours = _load(metadata)
    assert "has no scores" in ours.warnings[0]
    assert ours.encode("ab") == [1, 3, 6]
    without = {k: v for k, v in metadata.items() if k != "scores"}
    assert _load(without).encode("ab") == [1, 3, 6]


def test_bos_wanted_but_not_named(tmp_path: Path) -> None:
    made = train_byte_level(*PUBLISHED["gpt-2"])
    file = gguf_of_byte_level(tmp_path / "t.gguf", made, "gpt-2", add_bos_token=True)
    ours = load_tokenizer(Source(gguf=file))
    assert "add_bos_token but no bos_token_id: none is added" in ours.warnings[0]
    assert ours.encode("") == []


NONE = 0xFFFF_FFFF  # as an unsigned key says -1


@pytest.mark.parametrize("name", ["padding", "unknown", "seperator", "mask", "eot", "eom"])
def test_an_id_that_means_none_is_none(name: str, tmp_path: Path) -> None:
    made = train_byte_level(*PUBLISHED["gpt-2"])
    keys = {f"{name}_token_id": NONE, "bos_token_id": NONE, "eos_token_id": 2}
    source = Source(gguf=gguf_of_byte_level(tmp_path / "t.gguf", made, "gpt-2", **keys))
    ours = load_tokenizer(source)
    assert (ours.bos_id, ours.eos_id, ours.warnings) == (None, 2, ())
    assert [end.id for end in eos_set(source, ours)] == [0, 2]
    assert set(ours.template_tokens) == {"eos_token"}


def test_a_first_token_that_is_off_is_a_warning(tmp_path: Path) -> None:
    """llama.cpp warns, too, and takes the kind's usual id."""
    made = train_byte_level(*PUBLISHED["gpt-2"])
    file = gguf_of_byte_level(tmp_path / "t.gguf", made, "gpt-2", bos_token_id=70000)
    ours = load_tokenizer(Source(gguf=file))
    assert ours.bos_id is None
    assert (
        "bos_token_id is 70000, outside the vocabulary of 701 tokens: none is used"
        in (ours.warnings[0])
    )
    spm = {
        "model": "llama",
        "tokens": ["<unk>", "<s>", "</s>", "▁", "a"],
        "token_type": [2, 3, 3, 1, 1],
        "scores": [0, 0, 0, -1, -2],  # integers, as some converters write them
        "bos_token_id": 9,
    }
    ours = _load(spm)
    assert ours.encode("a") == [1, 3, 4]
    assert "1 is used" in ours.warnings[0]


def test_merges_that_make_no_token_are_left_out_and_said(tmp_path: Path) -> None:
    made = train_byte_level(*PUBLISHED["gpt-2"])
    file = gguf_of_byte_level(tmp_path / "t.gguf", made, "gpt-2")
    merges = file.metadata["tokenizer.ggml.merges"]
    more = [merges[0], "Ġ nowhere", *merges, "x", merges[5]]
    meta = {**file.metadata, "tokenizer.ggml.merges": more}
    ours, plain = _load(meta), load_tokenizer(Source(gguf=file))
    assert ours.warnings[0].startswith(f"4 of the GGUF file's {len(more)} merges are not two tok")
    for text in TEXTS:
        assert ours.encode(text) == plain.encode(text)


def test_pieces_too_long_to_be_cut_in_all_ways_are_refused() -> None:
    long = "a" * 20_000
    tokens = ["<unk>", "<s>", "</s>", "a", long]
    meta = {"model": "llama", "tokens": tokens, "token_type": [2, 3, 3, 1, 1], "scores": [0.0] * 5}
    assert "too long to be words" in refusal(lambda: _load(meta)).message


def test_templates_by_name(tmp_path: Path) -> None:
    made = train_byte_level(*PUBLISHED["gpt-2"])
    keys = {"tokenizer.chat_template": "A", "tokenizer.chat_template.tool_use": "B"}
    file = gguf_of_byte_level(tmp_path / "t.gguf", made, "gpt-2", **keys)
    ours = load_tokenizer(Source(gguf=file))
    assert ours.chat_template == "A"
    assert ours.chat_templates == {"default": "A", "tool_use": "B"}


def test_added_token_bytes(tmp_path: Path) -> None:
    """A token with a character outside the byte alphabet stands for its own text, as in Hugging
    Face's decoder; one within it is read as bytes."""
    made = train_byte_level(*PUBLISHED["deepseek-v3"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    texts = ("<｜User｜>", "a b", "éQ", "\t\t\t\tQ", "ĠxQZ")
    made["added_tokens"] += [{"id": 701 + i, "content": t, **flags} for i, t in enumerate(texts)]
    hf = Backend.from_str(json.dumps(made))
    ours = load_tokenizer(Source(gguf=gguf_of_byte_level(tmp_path / "t.gguf", made, "deepseek-v3")))
    assert [ours.token_bytes(701 + i) for i in range(5)] == [
        "<｜User｜>".encode(),
        b"a b",
        b"\xe9Q",
        b"\t\t\t\tQ",
        b" xQZ",
    ]
    for i in range(701, 706):
        assert ours.decode([i]) == hf.decode([i])
        assert ours.encode(ours.token_text(i)) == hf.encode(ours.token_text(i)).ids == [i]


@pytest.mark.parametrize("token", [-1, 701, 10**9])
def test_ids_without_a_token_are_nothing(token: int, tmp_path: Path) -> None:
    made = train_byte_level(*PUBLISHED["gpt-2"])
    ours = load_tokenizer(Source(gguf=gguf_of_byte_level(tmp_path / "t.gguf", made, "gpt-2")))
    assert ours.vocab_size == 701
    assert not ours.has(token)
    assert ours.token_bytes(token) == b""
    assert ours.token_text(token) == ""
    assert ours.decode([token]) == ""
