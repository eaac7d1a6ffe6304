"""A conversation with pictures has the ids and the pixels that transformers' processor gives it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from rbee_worker.config import Settings
from rbee_worker.errors import InvalidRequest
from rbee_worker.model_info import ModelInfo, Purpose
from rbee_worker.pictures.picture import digest_of
from rbee_worker.session.prepare import prepare, prepare_again, rules_of
from rbee_worker.session.prepared import Prepared
from rbee_worker.session.text import TextSide
from rbee_worker.types import Detail, PictureFile, Request, Started
from tests.pictures.making import (
    GEMMA3,
    GEMMA3_PROMPT,
    IDEFICS3,
    IDEFICS3_PROMPT,
    INFO,
    drawn,
    reference,
    saved,
    side,
    tiles_of,
    write,
)

KINDS = {"idefics3": (IDEFICS3, IDEFICS3_PROMPT), "gemma3": (GEMMA3, GEMMA3_PROMPT)}
SIZES = [(40, 30), (30, 40), (70, 9), (9, 70), (33, 33), (200, 199)]
ASKED = "What is the difference?"


class Pair:
    """Our side and transformers' of the same files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        write(folder, name, *KINDS[name])
        self.ours, self.theirs = side(folder), reference(folder, name)


@pytest.fixture(scope="module", params=KINDS)
def pair(request: Any, tmp_path_factory: Any) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp(request.param), request.param)
    yield made
    made.ours.close()


def messages(pictures: int) -> tuple[dict[str, Any], ...]:
    parts = [{"type": "image"}] * pictures
    return (
        {"role": "user", "content": [*parts, {"type": "text", "text": ASKED}]},
        {"role": "assistant", "content": "None."},
        {"role": "user", "content": [{"type": "text", "text": "Really?"}]},
    )


def asked(text: TextSide, given: Request, info: ModelInfo = INFO) -> Prepared:
    return prepare(given, text, rules_of(text, info, Settings()))


def conversation(files: list[bytes], detail: Detail = "auto") -> Request:
    pictures = tuple(
        PictureFile(data=file, detail=detail, field=f"messages[0].content[{n}]")
        for n, file in enumerate(files)
    )
    return Request(id="1", messages=messages(len(files)), pictures=pictures, surface="chat")


def theirs(pair: Pair, images: list[Any], **options: Any) -> dict[str, Any]:
    template = pair.ours.tokenizer.chat_template
    text = pair.theirs.tokenizer.apply_chat_template(
        [
            {**m, "content": [{"type": "text", "text": m["content"]}]}
            if isinstance(m["content"], str)
            else m
            for m in messages(len(images))
        ],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
    )
    extra = {"add_special_tokens": False, "do_rescale": False, "do_normalize": False}
    out: dict[str, Any] = pair.theirs(
        text=text, images=[images], return_tensors="np", **extra, **options
    )
    return out


def pixels_of(out: dict[str, Any]) -> np.ndarray:
    """All tiles [n, height, width, 3], in the order of the pictures."""
    values = np.asarray(out["pixel_values"])
    values = values.reshape(-1, *values.shape[-3:]).transpose(0, 2, 3, 1)
    return values.astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_one_picture_of_any_shape(pair: Pair, size: tuple[int, int]) -> None:
    image = drawn(*size)
    got, want = asked(pair.ours, conversation([saved(image)])), theirs(pair, [image])
    assert list(got.prompt_ids) == want["input_ids"][0].tolist()
    (picture,) = got.pictures
    np.testing.assert_array_equal(tiles_of(picture.pixels, picture.shape), pixels_of(want))
    assert picture.digest == digest_of(picture.pixels, picture.shape)


def test_several_pictures_have_their_own_places(pair: Pair) -> None:
    images = [drawn(*size, seed=n) for n, size in enumerate([(33, 33), (64, 64), (64, 20)])]
    got = asked(pair.ours, conversation([saved(image) for image in images]))
    want = [theirs(pair, [image]) for image in images]
    assert list(got.prompt_ids) == theirs(pair, images)["input_ids"][0].tolist()
    token = pair.ours.pictures.prompt.token_id  # type: ignore[union-attr]
    rows = pair.ours.pictures.prompt.rows  # type: ignore[union-attr]
    at = [n for n, i in enumerate(got.prompt_ids) if i == token]
    for picture, one in zip(got.pictures, want, strict=True):
        np.testing.assert_array_equal(tiles_of(picture.pixels, picture.shape), pixels_of(one))
        taken = [n for first, count in picture.places for n in range(first, first + count)]
        assert taken == at[: len(taken)]
        assert len(taken) == picture.shape[0] * rows
        del at[: len(taken)]
    assert not at


def test_detail_low_is_the_whole_picture_once(pair: Pair) -> None:
    image = drawn(70, 40)
    got = asked(pair.ours, conversation([saved(image)], "low"))
    options = {"do_image_splitting": False} if pair.name == "idefics3" else {}
    want = theirs(pair, [image], **options)
    assert list(got.prompt_ids) == want["input_ids"][0].tolist()
    (picture,) = got.pictures
    assert picture.shape == (1, 32, 32)
    np.testing.assert_array_equal(tiles_of(picture.pixels, picture.shape), pixels_of(want))


@pytest.mark.parametrize("size", [(700, 300), (300, 700), (900, 100), (2600, 520), (640, 600)])
def test_detail_high_cuts_a_long_picture(pair: Pair, size: tuple[int, int]) -> None:
    image = drawn(*size)
    got = asked(pair.ours, conversation([saved(image)], "high"))
    options = {"do_image_splitting": True} if pair.name == "idefics3" else {"do_pan_and_scan": True}
    want = theirs(pair, [image], **options)
    assert list(got.prompt_ids) == want["input_ids"][0].tolist()
    (picture,) = got.pictures
    np.testing.assert_array_equal(tiles_of(picture.pixels, picture.shape), pixels_of(want))


def test_another_process_places_the_pictures_again(pair: Pair) -> None:
    request = conversation([saved(drawn(70, 40)), saved(drawn(9, 9))])
    first = asked(pair.ours, request)
    started = Started(
        job_id="1",
        model="x",
        started_at="",
        prompt_tokens=len(first.prompt_ids),
        seed=first.resolved.params.seed,
        sampling=first.resolved,
        prompt_ids=first.prompt_ids,
    )
    bare = Request(
        id="1", token_ids=first.prompt_ids, pictures=request.pictures, surface="chat", place="start"
    )
    again = prepare_again(bare, started, pair.ours, rules_of(pair.ours, INFO, Settings()))
    assert again.pictures == first.pictures


def test_a_prompt_has_the_placeholders_itself(pair: Pair) -> None:
    mark = pair.ours.pictures.placeholder  # type: ignore[union-attr]
    files = (PictureFile(data=saved(drawn(33, 33)), field="images[0]"),)
    whole = asked(pair.ours, Request(id="1", prompt=f"a {mark} b", pictures=files))
    want = pair.theirs(text=f"a {mark} b", images=[[drawn(33, 33)]], return_tensors="np")
    assert list(whole.prompt_ids) == want["input_ids"][0].tolist()
    again = asked(pair.ours, Request(id="1", token_ids=whole.prompt_ids, pictures=files))
    assert again.pictures == whole.pictures


def refusal(text: TextSide, given: Request, info: ModelInfo = INFO) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as caught:
        asked(text, given, info)
    return [(e.field, e.message) for e in caught.value.errors]


def test_placeholders_without_a_picture_are_refused(pair: Pair) -> None:
    prompt = pair.ours.pictures.prompt  # type: ignore[union-attr]
    talk = ({"role": "user", "content": f"look: {prompt.placeholder}"},)
    ((field, message),) = refusal(pair.ours, Request(id="1", messages=talk, surface="chat"))
    assert field == "messages"
    assert message == (f"has 1 of them for 0 pictures ({prompt.placeholder} stands for a picture)")
    ((field, message),) = refusal(pair.ours, Request(id="1", token_ids=(prompt.token_id, 7)))
    assert field == "token_ids"
    assert "only pictures may bring them" in message


def test_a_model_without_a_tower_names_each_picture(pair: Pair) -> None:
    info = replace(INFO, purpose=Purpose())
    request = conversation([b"", b""])
    assert refusal(pair.ours, request, info) == [
        (f"messages[0].content[{n}]", "is a picture, and this model takes none") for n in (0, 1)
    ]
