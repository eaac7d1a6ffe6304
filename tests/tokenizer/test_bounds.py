"""A tokenizer.json costs no more than it is worth: at load, and for a short prompt."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from rbee_worker.errors import CheckpointError, InferenceFailed, InvalidRequest
from rbee_worker.session.prepare import is_quick
from rbee_worker.session.text import TextSide
from rbee_worker.tokenizer.bounds import MAX_NORMALIZED
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.types import Request
from tests.checkpoint.limits import refusal
from tests.tokenizer.builders import Source, train_byte_level, train_sentencepiece
from tests.tokenizer.published import PUBLISHED
from tests.tokenizer.test_load import _template
from tests.tokenizer.texts import TEXTS
from tests.yardstick import cpu_s, interpreter_s, ratio

Change = Callable[[dict[str, Any]], None]
OFF = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def replacing(pattern: Any, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": [*steps]}


TENFOLD = replacing({"String": "a"}, "a" * 10)


def made(**changes: Any) -> dict[str, Any]:
    return {**train_byte_level(*PUBLISHED["llama-bpe"]), **changes}


def written(folder: Path, content: dict[str, Any]) -> Source:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return Source(files={"tokenizer.json": path})


def tokenizer(folder: Path, **changes: Any) -> Tokenizer:
    return load_tokenizer(written(folder, made(**changes)))


def huge_id(m: dict[str, Any]) -> None:
    m["model"]["vocab"]["zz"] = 10**8


def many_added(m: dict[str, Any]) -> None:
    m["added_tokens"] += [{"id": 1000 + i, "content": f"<{i}>", **OFF} for i in range(1 << 17)]


def long_added(m: dict[str, Any]) -> None:
    m["added_tokens"].append({"id": 701, "content": "<" * 5000, **OFF})


def multiplied_added(m: dict[str, Any]) -> None:
    m["normalizer"] = sequence(*[TENFOLD] * 8)
    m["added_tokens"].append({"id": 701, "content": "aaaa", **OFF, "normalized": True})


def one_large_step(m: dict[str, Any]) -> None:
    m["normalizer"] = replacing({"String": "a"}, "b" * 1000)


def one_large_step_by_a_pattern(m: dict[str, Any]) -> None:
    m["normalizer"] = sequence(sequence(replacing({"Regex": ""}, "b" * 1000)))


def prepended(m: dict[str, Any]) -> None:
    m["normalizer"] = {"type": "Prepend", "prepend": "b" * 1000}


def many_steps(m: dict[str, Any]) -> None:
    m["normalizer"] = sequence(*[{"type": "Lowercase"}] * 100)


def damaged_map(m: dict[str, Any]) -> None:
    charsmap = base64.b64encode((4).to_bytes(4, "little") + bytes(4)).decode()
    m["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}


def many_affixes(m: dict[str, Any]) -> None:
    post = _template(["<|im_end|>"] * 40, [], {"<|im_end|>": 2})
    post["special_tokens"]["<|im_end|>"]["ids"] = [2] * 100
    m["post_processor"] = post


HOSTILE: list[Change] = [
    huge_id,
    many_added,
    long_added,
    multiplied_added,
    one_large_step,
    one_large_step_by_a_pattern,
    prepended,
    many_steps,
    damaged_map,
    many_affixes,
]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda c: c.__name__)
def test_what_is_beyond_all_bounds_is_refused_cheaply(change: Change, tmp_path: Path) -> None:
    content = made()
    change(content)
    source = written(tmp_path, content)
    error = refusal(lambda: load_tokenizer(source), traced=change is not many_added)
    assert "tokenizer.json exceeds a limit" in error.message or change is damaged_map


def test_a_file_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(200 << 20)  # takes no room
    source = Source(files={"tokenizer.json": path})
    assert "larger than 96 MiB" in refusal(lambda: load_tokenizer(source)).message


def test_a_short_prompt_that_a_normalizer_multiplies_is_refused_at_once(tmp_path: Path) -> None:
    ours = tokenizer(tmp_path, normalizer=sequence(*[TENFOLD] * 9))

    def refused() -> None:
        with pytest.raises(InvalidRequest, match="makes this text too long"):
            ours.encode("a secr" + "a")

    assert ratio(lambda: cpu_s(refused), interpreter_s, 40) < 40
    with pytest.raises(InvalidRequest) as caught:
        ours.encode("aaaaaaa secret")
    assert "secret" not in str(caught.value)
    assert ours.encode("bcd") == tokenizer(tmp_path).encode("bcd")


def test_steps_are_counted_although_one_only_turns_the_letters(tmp_path: Path) -> None:
    """Each step alone makes little of the text that was sent."""
    turned = [replacing({"String": "x"}, "a"), TENFOLD, replacing({"String": "a"}, "x")] * 8
    ours = tokenizer(tmp_path, normalizer=sequence(*turned))
    with pytest.raises(InvalidRequest, match="makes this text too long"):
        ours.encode("xxxx")


def test_a_normalizer_of_a_published_kind_takes_long_texts(tmp_path: Path) -> None:
    """Llama's: a blank before the text, blanks for blanks."""
    normalizer = sequence(
        {"type": "Prepend", "prepend": "▁"}, replacing({"String": " "}, "▁"), {"type": "NFKC"}
    )
    content = made(normalizer=normalizer)
    ours = load_tokenizer(written(tmp_path, content))
    text = "the cat sat. " * (MAX_NORMALIZED // 13 // 8)
    assert ours.encode(text) == Backend.from_str(json.dumps(content)).encode(text).ids


SLOW = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}


def test_a_pattern_nobody_publishes_is_kept_off_the_event_loop(tmp_path: Path) -> None:
    ours = tokenizer(tmp_path, pre_tokenizer=SLOW)
    assert not ours.is_quick("x")
    side = TextSide(None, ours, (), None, frozenset(), None)  # type: ignore[arg-type]
    assert not is_quick(Request(id="r", prompt="x"), side)
    assert is_quick(Request(id="r", token_ids=(1,)), side)
    with pytest.raises(InferenceFailed, match="tokenizer fails on this text"):
        ours.encode("a" * 40 + "!")
    assert ours.encode("b") == [1] or ours.encode("b")  # and goes on


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_patterns_are_quick(name: str, tmp_path: Path) -> None:
    ours = load_tokenizer(written(tmp_path, train_byte_level(*PUBLISHED[name])))
    assert ours.is_quick("x")
    assert not ours.is_quick("x" * 2001)


def test_other_threads_run_while_a_long_text_is_encoded(tmp_path: Path) -> None:
    ours = tokenizer(tmp_path)
    text = TEXTS[0] * (400_000 // len(TEXTS[0]))
    found: list[list[int]] = []
    worker = threading.Thread(target=lambda: found.append(ours.encode(text)))
    turns = 0
    worker.start()
    while worker.is_alive():
        turns += 1
    worker.join()
    assert turns > 1000
    assert found[0] == ours._backend.encode(text).ids


def test_sentencepiece_files_are_bounded_too(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_sentencepiece("bpe"))
    assert load_tokenizer(Source(files={"tokenizer.model": path})).is_quick("x")
    with path.open("wb") as file:
        file.truncate(200 << 20)
    with pytest.raises(CheckpointError, match="larger than 96 MiB"):
        load_tokenizer(Source(files={"tokenizer.model": path}))
