"""Which models may draft for which, what they add to the plan of memory, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from safetensors.numpy import load_file, save_file

import rbee_worker
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.cli.inspect import rows
from rbee_worker.cli.report import report
from rbee_worker.config import Settings
from rbee_worker.errors import ModelError, UsageError, WorkerError
from rbee_worker.loading.planned import Preflight
from rbee_worker.loading.preflight import preflight
from rbee_worker.ops.backends import backend
from tests import tiny
from tests.drafting import cheap


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


def test_what_a_gguf_file_makes_special_may_be_none_elsewhere(
    draft: Path, target: Path, tmp_path: Path
) -> None:
    """llama.cpp's converter goes by the looks of `<|fim_prefix|>`, Qwen 2.5's own files say no."""
    other = tiny.write_safetensors(tmp_path / "other")
    vocabulary = json.loads((other / "tokenizer.json").read_text())
    vocabulary["added_tokens"][1]["special"] = False
    (other / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert planned(other, draft).draft is not None
    assert planned(draft, other).draft is not None
    assert "is special in one of the two only" in refused(target, other)


def test_fewer_rows_than_tokens_are_refused(target: Path, tmp_path: Path) -> None:
    other = tiny.write_safetensors(tmp_path / "other", vocab=tiny.VOCAB - 2)
    assert f"has rows for {tiny.VOCAB - 2} tokens, not for {tiny.VOCAB}" in refused(target, other)


@pytest.mark.parametrize(("more", "backend"), [(1, "cpu"), (40, "cpu"), (40, "reference")])
def test_heads_may_have_rows_without_a_token(
    target: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    more: int,
    backend: str,
) -> None:
    """As the models of a family often differ: either way, the tokens are the same, and drafts go on
    after one that the draft model has no row for."""
    cheap(monkeypatch)
    wide = tiny.write_safetensors(tmp_path / "wide", vocab=tiny.VOCAB + more)
    params: dict[str, Any] = {"max_tokens": 40, "seed": 3, "ignore_eos": True}
    params["logit_bias"] = {str(tiny.VOCAB + more - 1): 3}
    for big, small in ((wide, target), (target, wide)):
        found, drafted = [], 0
        if big is target:
            del params["logit_bias"]
        for name in ("", str(small)):
            with rbee_worker.load(str(big), backend=backend, threads=1, draft_model=name) as model:
                answer = model.generate([40, 41, 42], **params)
                found.append(answer.token_ids)
                drafted = answer.usage.drafted_tokens
        assert found[0] == found[1]
        assert drafted > 5
        assert big is target or tiny.VOCAB + more - 1 in found[0]
    assert "drafting failed" not in caplog.text


def test_rows_without_a_token_may_have_names(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp's converter names them after their ids: [PAD151936] in Qwen 2.5 of 7B, which has
    more of them than 0.5B."""
    cheap(monkeypatch)
    wide = tiny.write_safetensors(tmp_path / "wide", vocab=tiny.VOCAB + 9)
    many = tiny.write_gguf(tmp_path / "many.gguf", pads=9)
    few = tiny.write_gguf(tmp_path / "few.gguf", pads=2)
    for big, small in ((wide, many), (many, wide), (many, few), (few, many), (many, target)):
        found = planned(big, small)
        assert found.draft is not None
    short = tiny.write_safetensors(tmp_path / "short", vocab=tiny.VOCAB - 2)
    assert f"has rows for {tiny.VOCAB - 2} tokens, not for {tiny.VOCAB}" in refused(many, short)
    with rbee_worker.load(str(many), backend="cpu", threads=1, draft_model=str(few)) as model:
        answer = model.generate([40, 41, 42], max_tokens=30, temperature=0, ignore_eos=True)
    with rbee_worker.load(str(many), backend="cpu", threads=1) as model:
        alone = model.generate([40, 41, 42], max_tokens=30, temperature=0, ignore_eos=True)
    assert answer.token_ids == alone.token_ids
    assert answer.usage.drafted_tokens > 5


def test_places_of_pictures_are_no_words(target: Path, tmp_path: Path) -> None:
    """Gemma 3 of 27B has a row for <image_soft_token>; 1B and 270M have none, or no such token."""
    place = {
        "id": tiny.VOCAB,
        "content": "<image_soft_token>",
        "special": True,
        "normalized": False,
    }
    place |= dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    seeing, blind = (
        tiny.write_safetensors(tmp_path / name, vocab=tiny.VOCAB + more)
        for name, more in (("seeing", 1), ("blind", 0))
    )
    for folder in (seeing, blind):
        vocabulary = json.loads((folder / "tokenizer.json").read_text())
        vocabulary["added_tokens"].append(place)
        (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert planned(seeing, blind).draft is not None
    assert planned(seeing, target).draft is not None
    assert planned(target, seeing).draft is not None


def test_two_ways_to_draft_are_refused(target: Path, draft: Path) -> None:
    assert "both draft tokens" in refused(target, draft, speculate="ngram")


def without_head(target: Path, folder: Path) -> Path:
    """As decoders that were saved for their vectors are."""
    shutil.copytree(target, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    plain = {name.removeprefix("model."): values for name, values in tensors.items()}
    save_file(plain, folder / "model.safetensors")
    return folder


def test_a_model_without_a_head_neither_drafts_nor_is_drafted_for(
    target: Path, tmp_path: Path
) -> None:
    """Its embedding would be taken for the head."""
    vectors = without_head(target, tmp_path / "vectors")
    assert "does not generate text" in refused(target, vectors)
    assert "nothing can be drafted for embed models" in refused(vectors, target)
    with rbee_worker.load(str(vectors), backend="cpu", threads=1, speculate="ngram") as model:
        assert model.info.speculate == "off"
        [note] = [note for note in model.info.notes if "drafts nothing" in note]
    assert note == "--speculate ngram drafts nothing here: this model draws no tokens"
    asked = Settings(model=str(vectors), backend="cpu", speculate="ngram")
    assert note in report(asked)["warnings"]


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
