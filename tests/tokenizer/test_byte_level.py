"""Byte-level vocabularies from GGUF give the ids of the published tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.tokenizer.pretokenizers import ALIASES, PRE_TOKENIZERS, TELLTALES
from tests.tokenizer.builders import Source, gguf_of_byte_level, train_byte_level
from tests.tokenizer.published import PUBLISHED
from tests.tokenizer.texts import TEXTS


def _hf(tmp_path: Path, made: dict) -> PreTrainedTokenizerFast:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(made), encoding="utf-8")
    return PreTrainedTokenizerFast(tokenizer_file=str(path))


@pytest.mark.parametrize("pre", PUBLISHED)
def test_ids_and_text_equal_the_published_tokenizer(pre: str, tmp_path: Path) -> None:
    made = train_byte_level(*PUBLISHED[pre])
    hf = _hf(tmp_path, made)
    file = gguf_of_byte_level(tmp_path / "t.gguf", made, pre, add_bos_token=False)
    ours = load_tokenizer(Source(gguf=file))
    from_json = load_tokenizer(Source(files={"tokenizer.json": tmp_path / "tokenizer.json"}))
    assert ours.warnings == ()
    for text in TEXTS:
        ids = hf.encode(text, add_special_tokens=False)
        assert ours.encode(text) == ids, text
        assert from_json.encode(text) == ids, text
        for skip in (False, True):
            want = hf.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip_special=skip) == want
            assert from_json.decode(ids, skip_special=skip) == want


def test_the_texts_tell_pre_tokenizers_apart(tmp_path: Path) -> None:
    """With a wrong row the test above must fail: all rows on one vocabulary give different ids."""
    made = train_byte_level(*PUBLISHED["gpt-2"], size=1500)
    seen: dict[tuple[tuple[int, ...], ...], str] = {}
    rows = {name: row for name, row in PRE_TOKENIZERS.items() if name in PUBLISHED}
    for pre in rows:
        file = gguf_of_byte_level(tmp_path / f"{pre}.gguf", made, pre)
        ours = load_tokenizer(Source(gguf=file))
        key = tuple(tuple(ours.encode(text, add_special=False)) for text in TEXTS)
        assert key not in seen or rows[seen[key]].steps == rows[pre].steps, (pre, seen.get(key))
        seen[key] = pre
    assert len(seen) >= 12


def test_every_alias_and_telltale_leads_to_a_row() -> None:
    assert set(ALIASES.values()) <= set(PRE_TOKENIZERS)
    assert not set(ALIASES) & set(PRE_TOKENIZERS)
    assert {row for _, _, row in TELLTALES} <= set(PRE_TOKENIZERS)


@pytest.mark.parametrize(
    ("pre", "said"), [(None, "does not name"), ("default", "does not name"), ("xyz-9", "'xyz-9'")]
)
def test_unknown_pre_tokenizer_is_a_loud_warning(
    pre: str | None, said: str, tmp_path: Path
) -> None:
    made = train_byte_level(*PUBLISHED["gpt-2"])
    file = gguf_of_byte_level(tmp_path / "t.gguf", made, pre)
    ours = load_tokenizer(Source(gguf=file))
    (warning,) = ours.warnings
    assert said in warning
    assert "assumed 'gpt-2'" in warning
    assert "\n" not in warning
    assert ours.encode("Hello 123 world") == _hf(tmp_path, made).encode("Hello 123 world")


def test_a_telltale_token_chooses_the_assumed_row(tmp_path: Path) -> None:
    made = train_byte_level(*PUBLISHED["starcoder"])
    made["added_tokens"].append(
        {"id": 701, "content": "<fim_prefix>", "special": True, "normalized": False}
    )
    ours = load_tokenizer(Source(gguf=gguf_of_byte_level(tmp_path / "t.gguf", made, None)))
    assert "assumed 'starcoder', because of its token <fim_prefix>" in ours.warnings[0]


@pytest.mark.parametrize(
    ("pre", "keys", "want"),
    [
        ("llama-bpe", {"bos_token_id": 1}, [1]),
        ("llama-bpe", {"bos_token_id": 1, "add_bos_token": False}, []),
        ("qwen2", {"bos_token_id": 1}, []),
        ("qwen2", {"bos_token_id": 1, "add_bos_token": True}, [1]),
        ("qwen2", {"eos_token_id": 2, "add_eos_token": True}, [2]),
    ],
)
def test_opening_and_closing_tokens(
    pre: str, keys: dict[str, int], want: list[int], tmp_path: Path
) -> None:
    made = train_byte_level(*PUBLISHED[pre])
    ours = load_tokenizer(Source(gguf=gguf_of_byte_level(tmp_path / "t.gguf", made, pre, **keys)))
    assert ours.encode("") == want
    assert ours.encode("", add_special=False) == []


def test_special_tokens_as_plain_text(tmp_path: Path) -> None:
    made = train_byte_level(*PUBLISHED["smollm"])
    hf = _hf(tmp_path, made)
    ours = load_tokenizer(Source(gguf=gguf_of_byte_level(tmp_path / "t.gguf", made, "smollm")))
    text = "a<|im_start|>b<think>c"
    plain = ours.encode(text, parse_special=False)
    assert plain == hf.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert 1 not in plain
    assert hf.convert_tokens_to_ids("<think>") in plain  # added, but not special
    assert 1 in ours.encode(text)
    assert ours.special_ids == {0, 1, 2}
    assert ours.token_text(1) == "<|im_start|>"


def test_damaged_vocabularies_are_refused_in_one_line(tmp_path: Path) -> None:
    made = train_byte_level(*PUBLISHED["gpt-2"])
    file = gguf_of_byte_level(tmp_path / "t.gguf", made, "gpt-2")
    meta = dict(file.metadata)
    key = "tokenizer.ggml."

    def refused(kind: type[Exception], says: str, **changes: object) -> None:
        altered = {**meta, **{key + k: v for k, v in changes.items()}}
        altered = {k: v for k, v in altered.items() if v is not None}
        with pytest.raises(kind, match=says) as caught:
            load_tokenizer(Source(gguf=type("G", (), {"metadata": altered})()))
        assert "\n" not in str(caught.value)
        assert "Fix:" in str(caught.value)

    refused(CheckpointError, "no tokenizer", tokens=None)
    refused(CheckpointError, "no tokenizer", model=None)
    refused(UnsupportedModel, "'plamo2' is not supported; supported: gpt2, llama", model="plamo2")
    refused(CheckpointError, "no merges", merges=None)
    refused(CheckpointError, "merges do not fit", merges=["Ġ nowhere"])
    refused(CheckpointError, "merges do not fit", merges=[""])
    refused(CheckpointError, "is not an array of str", merges=[1])
    refused(CheckpointError, "is not an array of str", tokens=7)
    refused(CheckpointError, "701 tokens but 2 entries", token_type=[1, 1])
    refused(CheckpointError, "eos_token_id is 70000, outside", eos_token_id=70000)
    refused(CheckpointError, "bos_token_id is oops, outside", bos_token_id="oops")
