"""The union of everything that says which ids end a sequence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.eos import eos_set, template_special_ids
from rbee_worker.tokenizer.load import load_tokenizer
from tests.tokenizer.builders import Source, train_byte_level
from tests.tokenizer.published import PUBLISHED

LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


def _added(token: int, text: str, special: bool) -> dict[str, Any]:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, "special": special, **off}


def _source(tmp_path: Path, special: tuple[str, ...], **parts: Any) -> Source:
    """A directory whose special tokens follow the three of `train_byte_level` and <think>."""
    made = train_byte_level(*PUBLISHED["llama-bpe"])
    made["added_tokens"] = [t for t in made["added_tokens"] if t["content"] == "<think>"]
    made["added_tokens"] += [_added(701 + i, text, True) for i, text in enumerate(special)]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(made), encoding="utf-8")
    return Source(files={"tokenizer.json": path}, **parts)


def _origins(source: Source) -> dict[int, tuple[str, ...]]:
    return {e.id: e.origins for e in eos_set(source, load_tokenizer(source))}


def test_every_source_counts_and_is_named(tmp_path: Path) -> None:
    source = _source(
        tmp_path,
        LLAMA3,
        config={"eos_token_id": 702},
        generation={"eos_token_id": [702, 703, 704, 700]},
        tokenizer_config={"eos_token": "<|eot_id|>"},
    )
    assert _origins(source) == {
        700: ("generation_config.json",),
        702: ("config.json", "generation_config.json", "vocabulary"),
        703: ("generation_config.json", "vocabulary"),
        704: ("generation_config.json", "tokenizer_config.json", "vocabulary"),
    }
    texts = {e.id: e.text for e in eos_set(source, load_tokenizer(source))}
    assert texts == {700: "<think>", 702: LLAMA3[1], 703: LLAMA3[2], 704: LLAMA3[3]}


def test_no_source_replaces_another(tmp_path: Path) -> None:
    source = _source(tmp_path, LLAMA3, config={"eos_token_id": [702]}, generation={})
    assert set(_origins(source)) == {702, 703, 704}
    bare = _source(tmp_path, (), config={"eos_token_id": None})
    assert _origins(bare) == {}


@pytest.mark.parametrize(
    ("special", "ends"),
    [
        (("<|end|>", "<|user|>"), {701}),
        (("<|end|>", "<|return|>", "<|call|>"), {702, 703}),
        (("</s>", "<end_of_turn>"), {701, 702}),
        (("</s>", "<|tool_response>", "<turn|>"), {702, 703}),
        (("<｜end▁of▁sentence｜>",), {701}),
        (("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"), {702}),
    ],
)
def test_end_of_turn_tokens_of_the_vocabulary(
    special: tuple[str, ...], ends: set[int], tmp_path: Path
) -> None:
    assert set(_origins(_source(tmp_path, special))) == ends


def test_a_plain_token_spelled_like_one_does_not_count(tmp_path: Path) -> None:
    source = _source(tmp_path, ())
    made = json.loads(source.files["tokenizer.json"].read_text(encoding="utf-8"))
    made["added_tokens"].append(_added(701, "</s>", False))
    source.files["tokenizer.json"].write_text(json.dumps(made), encoding="utf-8")
    assert load_tokenizer(source).token_text(701) == "</s>"
    assert _origins(source) == {}


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"config": {"eos_token_id": 90_000}}, r"config.json names the end token 90000, outside"),
        ({"generation": {"eos_token_id": [701, -1]}}, r"generation_config.json names .* -1, out"),
        ({"config": {"eos_token_id": "2"}}, r"eos_token_id in config.json is neither an id nor"),
        ({"generation": {"eos_token_id": [True]}}, r"in generation_config.json is neither"),
        ({"generation": {"eos_token_id": [[1]]}}, r"in generation_config.json is neither"),
    ],
)
def test_impossible_ids_are_a_load_error(parts: dict[str, Any], says: str, tmp_path: Path) -> None:
    source = _source(tmp_path, LLAMA3, **parts)
    with pytest.raises(CheckpointError, match=says) as caught:
        eos_set(source, load_tokenizer(source))
    assert "Fix: " in str(caught.value)
    assert caught.value.exit_code == 3


def test_gguf_keys(tmp_path: Path) -> None:
    pieces = ["<unk>", "<s>", "</s>", "<end_of_turn>", "<|eom_id|>", "a", "b"]
    key = "tokenizer.ggml."
    metadata = {
        key + "model": "llama",
        key + "tokens": pieces,
        key + "token_type": [2, 3, 3, 4, 3, 1, 1],  # <end_of_turn> as old converters wrote it
        key + "scores": [-float(i) for i in range(7)],
        key + "bos_token_id": 1,
        key + "eos_token_id": 2,
        key + "eot_token_id": 3,
        key + "eom_token_id": 4,
        key + "eog_token_ids": [5, 2],
    }
    source = Source(gguf=type("G", (), {"metadata": metadata})(), config={"eos_token_id": 2})
    assert _origins(source) == {
        2: ("gguf:tokenizer.ggml.eos_token_id", "gguf:tokenizer.ggml.eog_token_ids", "vocabulary"),
        3: ("gguf:tokenizer.ggml.eot_token_id", "vocabulary"),
        4: ("gguf:tokenizer.ggml.eom_token_id", "vocabulary"),
        5: ("gguf:tokenizer.ggml.eog_token_ids",),
    }
    assert load_tokenizer(source).special_ids == {0, 1, 2, 3, 4}


def test_specials_of_a_template(tmp_path: Path) -> None:
    source = _source(
        tmp_path,
        (*LLAMA3, "<|start_header_id|>", "<|end_header_id|>"),
        tokenizer_config={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    )
    ours = load_tokenizer(source)
    written = "{{ bos_token }}<|start_header_id|>{{ role }}<|end_header_id|>"
    assert template_special_ids(written, ours) == {701, 705, 706}
    assert template_special_ids("{{ m }}{{ eos_token }}", ours) == {704}
    assert template_special_ids("<think>", ours) == frozenset()
    assert template_special_ids(None, ours) == frozenset()
    assert template_special_ids("", ours) == frozenset()
