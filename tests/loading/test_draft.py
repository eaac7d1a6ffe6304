"""Which models may draft for which, what they add to the plan of memory, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import rbee_worker
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.cli.inspect import rows
from rbee_worker.cli.report import report
from rbee_worker.config import Settings
from rbee_worker.errors import ModelError, UsageError, WorkerError
from rbee_worker.loading.preflight import Preflight, preflight
from rbee_worker.ops.backends import backend
from tests import tiny


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_safetensors(tmp_path_factory.mktemp("target") / "tiny", layers=3)


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_gguf(tmp_path_factory.mktemp("draft") / "tiny.gguf")


def planned(target: Path, draft: Path | str, **more: Any) -> Preflight:
    settings = Settings(model=str(target), backend="cpu", draft_model=str(draft), **more)
    return preflight(open_checkpoint(settings.model), settings)


def refused(target: Path, draft: Path | str, **more: Any) -> str:
    with pytest.raises(WorkerError) as caught:
        planned(target, draft, **more)
    assert isinstance(caught.value, UsageError | ModelError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_its_weights_and_cache_are_planned_with_the_others(target: Path, draft: Path) -> None:
    alone, both = planned(target, ""), planned(target, draft)
    assert both.draft is not None
    assert both.draft_bytes == both.draft.ahead.weight_bytes > 0
    assert both.weight_bytes == alone.weight_bytes
    settings = Settings(max_seqs=2, kv_tokens=1024)
    room, less = both.room(settings, 1 << 30), alone.room(settings, 1 << 30)
    assert room.tokens == less.tokens == 1024
    # two layers beside three: keys and values of 2 heads of 8 numbers, in the same dtype
    assert both.draft.ahead.kv_dtype == both.kv_dtype
    assert room.nbytes * 3 == less.nbytes * 5
    with pytest.raises(ModelError, match="the draft model needs"):
        both.room(settings, both.weight_bytes + 100)


def test_what_is_loaded_is_what_was_planned(target: Path, draft: Path) -> None:
    with rbee_worker.load(
        str(target), backend="cpu", threads=1, draft_model=str(draft), kv_tokens=1024
    ) as model:
        info = model.info
        assert info.speculate == "draft"
        assert info.draft_model == str(draft.absolute())
        assert info.draft_bytes == planned(target, draft).draft_bytes
        settings = replace(model.settings, draft_model="")
        ahead = preflight(open_checkpoint(settings.model), settings)
        assert info.kv_bytes == ahead.room(settings, 1 << 30).nbytes // 3 * 5


def test_inspect_shows_it(target: Path, draft: Path) -> None:
    found = report(Settings(model=str(target), backend="cpu", draft_model=str(draft)))
    assert found["memory"]["draft_model"] > 0
    assert found["memory"]["draft_kv_per_token"] == 2 * 2 * 2 * 8 * 4
    assert [text for _, text in rows(found) if text.startswith("draft model ")]
    found = report(Settings(model=str(target), backend="cpu"))
    assert found["memory"]["draft_model"] == found["memory"]["draft_kv_per_token"] == 0
    assert not [text for _, text in rows(found) if text.startswith("draft model ")]


def test_another_vocabulary_is_refused(target: Path, tmp_path: Path) -> None:
    other = tiny.write_safetensors(tmp_path / "other")
    vocabulary = json.loads((other / "tokenizer.json").read_text())
    words = vocabulary["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (other / "tokenizer.json").write_text(json.dumps(vocabulary))
    said = refused(target, other)
    assert f"token {min(words['a'], words['b'])} is 'b' there and 'a' in" in said


def test_a_special_token_of_one_of_the_two_is_refused(target: Path, tmp_path: Path) -> None:
    other = tiny.write_safetensors(tmp_path / "other")
    vocabulary = json.loads((other / "tokenizer.json").read_text())
    vocabulary["added_tokens"][1]["special"] = False
    (other / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert "('<|im_start|>') is special in one of the two only" in refused(target, other)


def test_fewer_rows_than_tokens_are_refused(target: Path, tmp_path: Path) -> None:
    other = tiny.write_safetensors(tmp_path / "other", vocab=tiny.VOCAB - 2)
    assert f"has rows for {tiny.VOCAB - 2} tokens, not for {tiny.VOCAB}" in refused(target, other)


@pytest.mark.parametrize("more", [1, 40])
def test_heads_may_have_rows_without_a_token(target: Path, tmp_path: Path, more: int) -> None:
    """As the models of a family often differ: either way, the tokens are the same."""
    wide = tiny.write_safetensors(tmp_path / "wide", vocab=tiny.VOCAB + more)
    params: dict[str, Any] = {"max_tokens": 40, "seed": 3, "ignore_eos": True}
    for big, small in ((wide, target), (target, wide)):
        found = []
        for name in ("", str(small)):
            with rbee_worker.load(str(big), backend="cpu", threads=1, draft_model=name) as model:
                found.append(model.generate([40, 41, 42], **params).token_ids)
        assert found[0] == found[1]


def test_two_ways_to_draft_are_refused(target: Path, draft: Path) -> None:
    assert "both draft tokens" in refused(target, draft, speculate="ngram")


def test_a_file_that_is_not_there(target: Path) -> None:
    assert "nowhere.gguf" in refused(target, "/nowhere.gguf")


def test_the_gpu_backend_has_no_second_model() -> None:
    refusal = backend("cuda").refuses(Settings(backend="cuda", draft_model="x"))
    assert refusal is not None


def test_without_a_cache_nothing_is_drafted_and_a_note_says_so(target: Path, draft: Path) -> None:
    with rbee_worker.load(
        str(target), backend="cpu", threads=1, draft_model=str(draft), kv_cache=False
    ) as model:
        assert model.info.speculate == "off"
        assert model.info.draft_model == ""
        [note] = [note for note in model.info.notes if "drafts nothing" in note]
        assert note.startswith("--draft-model drafts nothing here: ")
