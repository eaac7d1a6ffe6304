"""sentence-transformers' files beside a model: what they say, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.checkpoint.sentence import UNSAID, read_sentence
from rbee_worker.errors import CheckpointError, ModelError, UnsupportedModel
from rbee_worker.types import Pooling
from tests.encoders import sentence_files

PROMPTS = "config_sentence_transformers"


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        at = folder / f"{name.replace('__', '/')}.json"
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(json.dumps(content))
    return folder


def test_without_files_nothing_is_said(tmp_path: Path) -> None:
    assert read_sentence(tmp_path) == UNSAID


@pytest.mark.parametrize(
    ("way", "how"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")]
)
@pytest.mark.parametrize("normalize", [True, False])
def test_modules(tmp_path: Path, way: str, how: str, normalize: bool) -> None:
    write(tmp_path, **sentence_files(way=way, normalize=normalize, longest=77))
    found = read_sentence(tmp_path)
    wanted = Pooling(how=how, normalize=normalize, origin="1_Pooling/config.json")  # type: ignore[arg-type]
    assert found.pooling == wanted
    assert found.longest == 77
    assert not found.lower


def test_newer_files_name_the_way_in_one_word(tmp_path: Path) -> None:
    files = sentence_files() | {"1_Pooling__config": {"pooling_mode": "lasttoken"}}
    pooling = read_sentence(write(tmp_path, **files)).pooling
    assert pooling is not None
    assert pooling.how == "last"


def test_prompts(tmp_path: Path) -> None:
    prompts = {"query": "Q: ", "document": ""}
    files = {PROMPTS: {"prompts": prompts, "default_prompt_name": "query"}}
    found = read_sentence(write(tmp_path, **files, sentence_bert_config={"do_lower_case": True}))
    assert (dict(found.prompts), found.prompt, found.lower) == (prompts, "query", True)
    assert found.pooling is None


def step(kind: str, path: str = "") -> dict[str, Any]:
    return {"type": f"sentence_transformers.models.{kind}", "path": path}


TWO = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}


@pytest.mark.parametrize(
    ("files", "error", "says"),
    [
        ({"modules": {}}, CheckpointError, "is not a list of objects"),
        ({"modules": [1]}, CheckpointError, "is not a list of objects"),
        (
            {"modules": [step("Transformer"), step("Pooling", "1_Pooling"), step("Dense", "2_D")]},
            UnsupportedModel,
            "the step 'Dense' is not supported",
        ),
        ({"modules": [step("WordEmbeddings")]}, UnsupportedModel, "'WordEmbeddings' is not"),
        ({"1_Pooling__config": {}}, CheckpointError, "says no way of pooling"),
        (
            {"1_Pooling__config": {"pooling_mode_max_tokens": True}},
            UnsupportedModel,
            "pooling by max_tokens is not supported",
        ),
        (
            {"1_Pooling__config": TWO},
            UnsupportedModel,
            "pooling by cls_token and mean_tokens is not supported",
        ),
        ({"modules": [step("Pooling", "../../etc")]}, ModelError, ""),
        ({PROMPTS: {"prompts": {"a": 1}}}, CheckpointError, "prompts or default_prompt_name"),
        ({PROMPTS: {"prompts": ["a"]}}, CheckpointError, "prompts or default_prompt_name"),
        (
            {PROMPTS: {"prompts": {}, "default_prompt_name": "x"}},
            CheckpointError,
            "prompts or default_prompt_name",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(
    tmp_path: Path, files: dict[str, Any], error: type[ModelError], says: str
) -> None:
    write(tmp_path, **{**sentence_files(), **files})
    with pytest.raises(error) as caught:
        read_sentence(tmp_path)
    assert says in str(caught.value)
    assert len(str(caught.value)) <= 300
