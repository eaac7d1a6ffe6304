"""Directories with a tokenizer.json and a tokenizer_config.json, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from rbee_worker.errors import CheckpointError, InvalidRequest
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.load import load_tokenizer
from tests.tokenizer.builders import Source, train_byte_level
from tests.tokenizer.published import PUBLISHED
from tests.tokenizer.texts import TEXTS


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return train_byte_level(*PUBLISHED["llama-bpe"])


def _both(
    tmp_path: Path, made: dict[str, Any], config: dict[str, Any]
) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    (tmp_path / "tokenizer.json").write_text(json.dumps(made), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    files = {"tokenizer.json": tmp_path / "tokenizer.json"}
    ours = load_tokenizer(Source(files=files, tokenizer_config=config))
    return ours, PreTrainedTokenizerFast.from_pretrained(str(tmp_path))


def _template(before: list[str], after: list[str], ids: dict[str, int]) -> dict[str, Any]:
    def token(name: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": 0}}

    return {
        "type": "TemplateProcessing",
        "single": [
            *map(token, before),
            {"Sequence": {"id": "A", "type_id": 0}},
            *map(token, after),
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ids.items()
        },
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "bare": {},
    "named": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    "bos": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "add_bos_token": True},
    "bos and eos": {
        "bos_token": {"__type": "AddedToken", "content": "<|im_start|>", "special": True},
        "eos_token": "<|im_end|>",
        "add_bos_token": True,
        "add_eos_token": True,
    },
    "neither": {"bos_token": "<|im_start|>", "add_bos_token": False, "add_eos_token": False},
    "names a plain added token": {"eos_token": "<think>", "image_token": "<image>"},
    "more": {
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "additional_special_tokens": ["<|tool|>", "<|im_end|>"],
    },
    "listed": {
        "added_tokens_decoder": {
            "701": {"content": "<|user|>", "special": True, "rstrip": True, "normalized": False},
            "702": {"content": "<plain>", "special": False, "normalized": False},
        },
    },
}


@pytest.mark.parametrize("post", ["none", "opens", "opens and closes"])
@pytest.mark.parametrize("name", CONFIGS)
def test_ids_and_text_equal_transformers(
    name: str, post: str, made: dict[str, Any], tmp_path: Path
) -> None:
    ids = {"<|endoftext|>": 0, "<|im_end|>": 2}
    processor = {
        "none": None,
        "opens": _template(["<|endoftext|>"], [], ids),
        "opens and closes": _template(["<|endoftext|>"], ["<|im_end|>"], ids),
    }[post]
    ours, hf = _both(tmp_path, {**made, "post_processor": processor}, CONFIGS[name])
    texts = (*TEXTS, "a<|user|>  b<plain> c<|tool|><|pad|>d")
    for text in texts:
        want = hf.encode(text)
        assert ours.encode(text) == want, text
        bare = hf.encode(text, add_special_tokens=False)
        assert ours.encode(text, add_special=False) == bare
        for skip in (True, False):
            text_of = hf.decode(want, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(want, skip_special=skip) == text_of
    assert ours.vocab_size == len(hf)
    special = {i for i in range(len(hf)) if not hf.decode([i], skip_special_tokens=True)}
    assert ours.special_ids == special - {i for i in special if not hf.decode([i])}
    assert ours.bos_id == (hf.bos_token_id if "bos_token" in CONFIGS[name] else None)
    assert ours.eos_id == (hf.eos_token_id if "eos_token" in CONFIGS[name] else None)
    assert ours.warnings == ()


@pytest.mark.parametrize(("name", "want"), [("LlamaTokenizerFast", [1]), ("Other", [])])
def test_deepseek_files_open_with_bos(
    name: str, want: list[int], made: dict[str, Any], tmp_path: Path
) -> None:
    """Their post-processor adds nothing, their class is Llama's and their config says to add."""
    config = {"tokenizer_class": name, "bos_token": "<|im_start|>", "add_bos_token": True}
    processor = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": False,
        "use_regex": True,
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**made, "post_processor": processor}), encoding="utf-8")
    ours = load_tokenizer(Source(files={"tokenizer.json": path}, tokenizer_config=config))
    assert ours.encode("") == want


def test_names_from_special_tokens_map(made: dict[str, Any], tmp_path: Path) -> None:
    files = {
        "tokenizer.json": tmp_path / "tokenizer.json",
        "special_tokens_map.json": tmp_path / "s",
    }
    files["tokenizer.json"].write_text(json.dumps(made), encoding="utf-8")
    files["special_tokens_map.json"].write_text('{"eos_token": {"content": "<|im_end|>"}}')
    assert load_tokenizer(Source(files=files)).eos_id == 2
    files["special_tokens_map.json"].write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        load_tokenizer(Source(files=files))


def test_truncation_and_padding_of_the_file_are_off(made: dict[str, Any], tmp_path: Path) -> None:
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    pad = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    plain, _ = _both(tmp_path, made, {})
    ours, _ = _both(tmp_path, {**made, "truncation": cut, "padding": pad}, {})
    assert ours.encode(TEXTS[0]) == plain.encode(TEXTS[0])
    assert len(ours.encode(TEXTS[0])) > 3


def test_ids_where_only_config_json_names_them(made: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(made), encoding="utf-8")
    config = {"bos_token_id": 1, "eos_token_id": [2, 0]}
    ours = load_tokenizer(Source(files={"tokenizer.json": path}, config=config))
    assert (ours.bos_id, ours.eos_id) == (1, 2)
    assert (ours.bos_token, ours.eos_token) == ("<|im_start|>", "<|im_end|>")
    none = load_tokenizer(Source(files={"tokenizer.json": path}))
    assert (none.bos_token, none.eos_token) == ("", "")


def test_no_tokenizer_and_a_broken_one_are_one_line_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer found.*Fix: copy tokenizer.json"):
        load_tokenizer(Source())
    assert CheckpointError.exit_code == 3
    path = tmp_path / "tokenizer.json"
    for text in ("", "{", "[]", '{"model": {}}', "\x00"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"tokenizer.json:? cannot be read.*Fix: ") as e:
            load_tokenizer(Source(files={"tokenizer.json": path}))
        assert "\n" not in str(e.value)


def test_text_with_a_lone_surrogate_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    ours, _ = _both(tmp_path, made, {})
    with pytest.raises(InvalidRequest) as caught:
        ours.encode("secret \ud800")
    assert "secret" not in str(caught.value)
    assert caught.value.errors[0].field == "prompt"


@pytest.mark.parametrize(
    ("entry", "default", "names"),
    [
        ("A", "A", {"default"}),
        ([{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}], "A", None),
        ([{"name": "rag", "template": "B"}], "B", {"rag"}),
        ([{"name": "rag", "template": "B"}, {"name": "tool_use", "template": "C"}], None, None),
        (None, None, set()),
        ([1, {"name": 2}, "x"], None, set()),
    ],
)
def test_chat_templates(
    entry: Any, default: str | None, names: set[str] | None, made: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(made), encoding="utf-8")
    config = {"chat_template": entry}
    ours = load_tokenizer(Source(files={"tokenizer.json": path}, tokenizer_config=config))
    assert ours.chat_template == default
    if names is not None:
        assert set(ours.chat_templates) == names
    jinja = tmp_path / "chat_template.jinja"
    jinja.write_text("from the file", encoding="utf-8")
    files = {"tokenizer.json": path, "chat_template.jinja": jinja}
    ours = load_tokenizer(Source(files=files, tokenizer_config=config))
    assert ours.chat_template == "from the file"
