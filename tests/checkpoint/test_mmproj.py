"""mmproj files: found beside a model by their content, and the same numbers as from safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.errors import CheckpointError, UsageError
from rbee_worker.models import build_model
from rbee_worker.ops.reference.model import ReferenceModel
from rbee_worker.ops.reference.ops import ReferenceOps
from tests import mmproj, seeing

# The files have one form of GELU.
NAMES = ["smolvlm", "gemma3", "gemma3-near", "moondream", "moondream-1"]


def seen(path: Path, name: str) -> np.ndarray[Any, Any]:
    """The features of a tile, by the model at a path."""
    model = ReferenceModel(build_model(open_checkpoint(str(path)), ReferenceOps()))
    rows: np.ndarray[Any, Any] = model.see(seeing.pixels(name, 1, 3)[0]).numpy()
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_the_features_are_those_of_the_safetensors_files(name: str, tmp_path: Path) -> None:
    text, _ = mmproj.write(name, tmp_path)
    folder = tmp_path / "whole"
    seeing.write(name, folder)
    assert np.array_equal(seen(text, name), seen(folder, name))


def test_it_is_named_or_left_alone(tmp_path: Path) -> None:
    text, tower = mmproj.write("smolvlm", tmp_path)
    beside = open_checkpoint(str(text))
    assert beside.arch == "idefics3"
    assert beside.notes[-1] == "pictures are read with mmproj-model-f32.gguf"
    assert open_checkpoint(str(text), mmproj="none").arch == "llama"
    other = tmp_path / "elsewhere.gguf"
    tower.rename(other)
    assert open_checkpoint(str(text)).arch == "llama"
    assert open_checkpoint(str(text), mmproj=str(other)).tower == other


def test_several_that_fit_are_none_until_one_is_chosen(tmp_path: Path) -> None:
    text, tower = mmproj.write("smolvlm", tmp_path)
    second = tmp_path / "mmproj-other.gguf"
    second.write_bytes(tower.read_bytes())
    found = open_checkpoint(str(text))
    assert found.arch == "llama"
    assert "mmproj-model-f32.gguf, mmproj-other.gguf beside the model all fit" in found.notes[-1]
    assert open_checkpoint(str(text), mmproj=str(second)).arch == "idefics3"


def test_one_of_another_model_is_passed_over_or_refused(tmp_path: Path) -> None:
    cases = {
        "makes rows of 128 columns, the model has 64": {"projection_dim": 128},
        "has a projector of the kind 'pixtral'": {"projector": "pixtral"},
        "its projector 'gemma3' does not belong to a model of the kind 'llama'": {
            "projector": "gemma3"
        },
    }
    for why, changes in cases.items():
        text, tower = mmproj.write("smolvlm", tmp_path, **changes)
        assert open_checkpoint(str(text)).arch == "llama"
        with pytest.raises(CheckpointError, match=why):
            open_checkpoint(str(text), mmproj=str(tower))
    with pytest.raises(CheckpointError, match="is no mmproj file; its architecture is 'llama'"):
        open_checkpoint(str(text), mmproj=str(text))
    with pytest.raises(UsageError, match="is not a file"):
        open_checkpoint(str(text), mmproj=str(tmp_path / "missing.gguf"))


def test_a_directory_has_no_use_for_one(tmp_path: Path) -> None:
    _, tower = mmproj.write("smolvlm", tmp_path)
    folder = seeing.write("smolvlm", tmp_path / "whole")
    with pytest.raises(UsageError, match="--mmproj is for GGUF files"):
        open_checkpoint(str(folder), mmproj=str(tower))
