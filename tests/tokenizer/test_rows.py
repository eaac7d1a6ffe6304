"""Tokens without a row in the model's table: noted when a model is opened, refused when used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.config import Settings
from rbee_worker.errors import InvalidRequest
from rbee_worker.model_info import ModelInfo
from rbee_worker.session.prepare import prepare, rules_of
from rbee_worker.session.text import TextSide, open_text
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.tokenizer.rows import check_rows, rows_note
from rbee_worker.types import Request
from tests.tokenizer.builders import Source, gguf_of_byte_level, train_byte_level
from tests.tokenizer.published import PUBLISHED
from tests.tokenizer.test_load import _template

ROWS = 701  # what the vocabulary trained here has
MADE = train_byte_level(*PUBLISHED["llama-bpe"])
ADDED = {"<image>": 701, "<audio>": 702}
CHAT = "{% for m in messages %}<audio>{{ m.content }}{% endfor %}"


def source(folder: Path, config: dict[str, Any] | None = None, **tokenizer: Any) -> Source:
    files = {name: folder / name for name in ("tokenizer.json", "added_tokens.json")}
    files["tokenizer.json"].write_text(json.dumps({**MADE, **tokenizer}), encoding="utf-8")
    files["added_tokens.json"].write_text(json.dumps(ADDED), encoding="utf-8")
    return Source(files=files, tokenizer_config=config or {})


def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(source(folder))


def test_unused_ids_beyond_the_table_are_a_note(tmp_path: Path) -> None:
    ours = tokenizer(tmp_path)
    assert rows_note(ours, ROWS + 2) == ()
    assert rows_note(ours, ROWS + 64) == ()  # padding: rows without a token
    assert rows_note(ours, ROWS) == (
        "the model has 701 rows for tokens, but the tokenizer has 2 tokens beyond them: "
        "'<image>' (701), '<audio>' (702); a prompt with one is refused",
    )
    assert "698 more" in rows_note(ours, 2)[0]


def test_a_first_token_beyond_the_table_is_said(tmp_path: Path) -> None:
    ours = load_tokenizer(source(tmp_path, {"bos_token": "<image>"}))
    assert rows_note(ours, ROWS)[0].endswith("; one of them opens every plain prompt")


def test_a_file_of_the_other_kind_is_held_to_its_table(tmp_path: Path) -> None:
    file = gguf_of_byte_level(tmp_path / "x.gguf", MADE, "llama-bpe")
    ours = load_tokenizer(Source(gguf=file))
    assert rows_note(ours, ROWS) == ()
    assert "'<think>' (700)" in rows_note(ours, 700)[0]


def test_a_request_is_refused_by_the_tokens_name(tmp_path: Path) -> None:
    ours = tokenizer(tmp_path)
    check_rows(ours.encode("a<image>"), ours, ROWS + 1, "prompt")
    with pytest.raises(InvalidRequest) as caught:
        check_rows(ours.encode("secret<image>"), ours, ROWS, "prompt")
    (error,) = caught.value.errors
    assert error.field == "prompt"
    assert error.message == (
        "has the token '<image>' (id 701) for which this model has no row: its ids are 0 to 700"
    )


INFO = ModelInfo(
    model="x",
    arch="llama",
    device="cpu",
    backend="cpu",
    dtype="f32",
    kv_dtype="f32",
    context=64,
    vocab_size=ROWS,
    kv_tokens=64,
    block_size=16,
    weight_bytes=1,
    kv_bytes=1,
    n_layers=1,
    n_parameters=1,
)


def side(folder: Path, **tokenizer: Any) -> TextSide:
    config = {"chat_template": CHAT}
    return open_text(source(folder, config, **tokenizer))  # type: ignore[arg-type]


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "an added token in the text": ({"prompt": "a<image>"}, {}, "prompt", "<image>"),
    "a token of the template": (
        {"messages": ({"role": "user", "content": "a"},)},
        {},
        "messages",
        "<audio>",
    ),
    "a token of the post-processor": (
        {"prompt": "a"},
        {"post_processor": _template(["<far>"], [], {"<far>": 5000})},
        "prompt",
        "",
    ),
    "a token at the end": (
        {"prompt": "a"},
        {"post_processor": _template([], ["<image>"], {"<image>": 701})},
        "prompt",
        "<image>",
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_every_way_to_such_an_id_is_refused(name: str, tmp_path: Path) -> None:
    asked, changed, field, token = WAYS[name]
    text = side(tmp_path, **changed)
    with pytest.raises(InvalidRequest) as caught:
        prepare(Request(id="x", **asked), text, rules_of(text, INFO, Settings()))
    (error,) = caught.value.errors
    assert error.field == field
    assert (f"has the token {token!r}" if token else "has id 5000") in error.message
    assert prepare(
        Request(id="x", token_ids=(1, 700)), text, rules_of(text, INFO, Settings())
    ).prompt_ids == (
        1,
        700,
    )


def test_a_role_that_the_template_leaves_out_is_a_warning(tmp_path: Path) -> None:
    template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    text = open_text(source(tmp_path, {"chat_template": template}))  # type: ignore[arg-type]
    talk = ({"role": "system", "content": "a"}, {"role": "user", "content": "b"})
    assert prepare(
        Request(id="x", messages=talk), text, rules_of(text, INFO, Settings())
    ).warnings == ("the chat template leaves out the content of 'system' messages",)
    assert (
        prepare(Request(id="x", messages=talk[1:]), text, rules_of(text, INFO, Settings())).warnings
        == ()
    )
