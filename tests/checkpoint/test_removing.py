"""A model is removed with what only it needs; what others need stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rbee_worker.checkpoint import refs, removing
from rbee_worker.errors import BadReference


def snapshot(store: Path, repo: str, commit: str, files: dict[str, str]) -> Path:
    """A snapshot as huggingface_hub has it: its files are links to blobs, named by content."""
    folder = store / f"models--{repo.replace('/', '--')}"
    made = folder / "snapshots" / commit
    for name, content in files.items():
        blob = folder / "blobs" / f"blob-{content}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text(content)
        made.mkdir(parents=True, exist_ok=True)
        (made / name).symlink_to(Path("..") / ".." / "blobs" / blob.name)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return made


WHOLE = {"config.json": "{}", "tokenizer.json": "[]"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "hub"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_symlink() or p.is_file())


def test_a_blob_that_another_snapshot_has_stays(store: Path) -> None:
    old = snapshot(store, "a/m", "1" * 40, {**WHOLE, "model.safetensors": "old weights"})
    new = snapshot(store, "a/m", "2" * 40, {**WHOLE, "model.safetensors": "the new weights"})
    found = removing.find("hf:a/m")
    assert found.path == new
    assert removing.remove(found) == len("the new weights")
    assert not new.exists()
    assert (old / "config.json").read_text() == "{}"
    assert (old / "model.safetensors").read_text() == "old weights"


def test_the_last_snapshot_takes_the_folder_with_it(store: Path) -> None:
    snapshot(store, "a/m", "1" * 40, {**WHOLE, "model.safetensors": "weights"})
    snapshot(store, "a/other", "1" * 40, {**WHOLE, "model.safetensors": "weights"})
    removing.remove(removing.find("hf:a/m"))
    assert [p.name for p in store.iterdir()] == ["models--a--other"]
    assert [m.ref for m in refs.list_models()] == ["hf:a/other"]


def test_a_copy_that_may_lack_a_file_is_found_by_its_branch_too(store: Path) -> None:
    """As other programs leave models for vectors: without modules.json."""
    config = '{"architectures": ["BertModel"]}'
    made = snapshot(
        store, "a/m", "1" * 40, {**WHOLE, "config.json": config, "model.safetensors": "weights"}
    )
    assert removing.find("hf:a/m@main").path == made


def test_one_file_of_a_repository_goes_and_its_record_too(store: Path, tmp_path: Path) -> None:
    made = snapshot(store, "a/g", "1" * 40, {"x-Q4_0.gguf": "four", "x-Q8_0.gguf": "eight"})
    root = tmp_path / "cache" / "rbee-worker" / "models"
    records = root / "hf" / "pulled"
    records.mkdir(parents=True)
    for name in ("x-Q4_0.gguf", "x-Q8_0.gguf"):
        told = {"ref": f"hf:a/g:{name}", "path": str(made / name)}
        (records / f"{name}.json").write_text(json.dumps(told))
    assert removing.remove(removing.find("hf:a/g:x-Q4_0.gguf")) == len("four")
    assert names(made) == ["x-Q8_0.gguf"]
    assert names(records) == ["x-Q8_0.gguf.json"]
    assert [m.ref for m in refs.list_models()] == ["hf:a/g:x-Q8_0.gguf"]


def test_all_parts_of_a_file_go_together(store: Path) -> None:
    parts = {f"x-0000{n}-of-00002.gguf": f"part {n}" for n in (1, 2)}
    made = snapshot(store, "a/g", "1" * 40, parts)
    model = refs.LocalModel("hf:a/g:x-00001-of-00002.gguf", made / "x-00001-of-00002.gguf", 0)
    assert removing.remove(model) == 2 * len("part 1")
    assert not store.joinpath("models--a--g").exists()


def test_what_is_not_there_or_not_ours_is_refused(store: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_text("mine")
    with pytest.raises(BadReference, match="a file of your own"):
        removing.find(str(own))
    for ref in ("smollm2", "hf:a/none", "pypi:none"):
        with pytest.raises(BadReference, match="not among the models"):
            removing.find(ref)
    assert own.exists()
