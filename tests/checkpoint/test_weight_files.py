"""The digest of a model's files: the same for copies, another one for other weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rbee_worker.checkpoint.weight_files import digest, stamp


def test_copies_have_one_digest_and_other_weights_another(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    raw = bytearray(os.urandom(1 << 20))
    (model / "model.safetensors").write_bytes(raw)
    mine = digest(model)
    shutil.copytree(model, tmp_path / "elsewhere")
    (model / "README.md").write_text("not read by an engine")
    os.utime(model / "model.safetensors", (1, 1))
    assert digest(model) == digest(tmp_path / "elsewhere") == mine
    trained = bytes(b ^ 1 for b in raw)  # every weight is a little other
    (model / "model.safetensors").write_bytes(trained)
    assert digest(model) != mine
    (model / "model.safetensors").write_bytes(raw)
    (model / "config.json").write_text("{ }")
    assert digest(model) != mine


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_map_of_vectors_is_one_of_the_files(tmp_path: Path, name: str) -> None:
    dense = tmp_path / "2_Dense"
    dense.mkdir()
    for file in ("model.safetensors", "config.json"):
        (tmp_path / file).write_text("{}")
        (dense / file).write_text("{}")
    whole, seen = digest(tmp_path), stamp(tmp_path)
    (dense / name).write_text("{ }")
    assert digest(tmp_path) != whole
    assert stamp(tmp_path) != seen


def test_a_single_file_and_its_parts(tmp_path: Path) -> None:
    for name in ("one.gguf", "two.gguf", "x-00001-of-00002.gguf", "x-00002-of-00002.gguf"):
        (tmp_path / name).write_bytes(b"same")
    assert digest(tmp_path / "one.gguf") == digest(tmp_path / "two.gguf")
    before = digest(tmp_path / "x-00001-of-00002.gguf")
    (tmp_path / "x-00002-of-00002.gguf").write_bytes(b"more")
    assert digest(tmp_path / "x-00001-of-00002.gguf") != before
