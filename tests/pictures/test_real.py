"""Pictures through a real engine: answers are those of transformers, from the file to the last
token, and two pictures behind equal ids never share what was cached."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import SmolVLMForConditionalGeneration

import rbee_worker
from rbee_worker.session.client import EngineClient
from tests.pictures.making import data_url, drawn, reference, saved
from tests.pictures.whole import write_smolvlm
from tests.server.served import Served

pytestmark = pytest.mark.slow

COUNT = 12
ASKED = "What is the difference?"
RENDERED = f"<|im_start|>User:<image>{ASKED}<end_of_utterance>\nAssistant:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """A small SmolVLM with its processor's files."""
    return write_smolvlm(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Any:
    return SmolVLMForConditionalGeneration.from_pretrained(folder).eval()  # type: ignore[no-untyped-call]


def theirs(folder: Path, oracle: Any, image: Image.Image) -> list[int]:
    """transformers' greedy answer."""
    given = reference(folder, "idefics3")(
        text=RENDERED, images=[[image]], return_tensors="pt", add_special_tokens=False
    )
    with torch.inference_mode():
        out = oracle.generate(**given, max_new_tokens=COUNT, do_sample=False, eos_token_id=None)
    found: list[int] = out[0, given["input_ids"].shape[1] :].tolist()
    return found


IMAGES = [drawn(70, 40), drawn(70, 40, seed=1)]
LIKE = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True}


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    start = partial(EngineClient.start, in_process=True)
    with Served(start=start, model=str(folder), backend="reference", dtype="f32") as server:
        yield server


def answer(served: Served, image: Image.Image, **more: Any) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": data_url(saved(image))}}
    content = [part, {"type": "text", "text": ASKED}]
    body = {"messages": [{"role": "user", "content": content}], **LIKE, **more}
    response = served.http.post("/v1/infer", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_two_pictures_behind_equal_ids_never_share_a_cache(
    folder: Path, oracle: Any, served: Served
) -> None:
    want = [theirs(folder, oracle, image) for image in IMAGES]
    assert want[0] != want[1]
    first = answer(served, IMAGES[0])
    other = answer(served, IMAGES[1])
    assert [first["token_ids"], other["token_ids"]] == want
    # the second picture's prompt has the first one's ids; only what stands before it is shared
    assert other["prompt_tokens"] == first["prompt_tokens"]
    assert other["cached_tokens"] <= RENDERED.index("<image>")
    again = answer(served, IMAGES[0])
    assert again["cached_tokens"] > first["prompt_tokens"] // 2
    assert again["token_ids"] == want[0]
    assert "vision" in served.http.post("/api/show", json={}).json()["capabilities"]


def test_the_library_shows_a_file(folder: Path, oracle: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved(IMAGES[1]))
    with rbee_worker.load(str(folder), backend="reference", dtype="f32") as model:
        assert model.info.purpose.pictures
        found = model.chat(ASKED, images=[path], **LIKE)
        raw = model.generate(RENDERED, images=[path.read_bytes()], **LIKE)
    want = theirs(folder, oracle, IMAGES[1])
    assert list(found.token_ids) == want
    assert list(raw.token_ids) == want


def test_a_checkpoint_without_its_processor_says_why_it_takes_none(
    folder: Path, tmp_path: Path
) -> None:
    for file in folder.iterdir():
        if file.name != "preprocessor_config.json":
            shutil.copy(file, tmp_path)
    config = json.loads((folder / "preprocessor_config.json").read_text())
    config["do_resize"] = False
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with rbee_worker.load(str(tmp_path), backend="reference") as model:
        assert not model.info.purpose.pictures
        (note,) = (n for n in model.info.notes if "pictures" in n)
        assert note == (
            "pictures are refused: its preprocessor_config.json has do_resize = 'False', "
            "which is not supported"
        )
