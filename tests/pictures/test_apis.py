"""Every API takes pictures, and all of them send the engine the same: checked against the pixels
and ids that transformers' processor makes of the same files."""

from __future__ import annotations

import numpy as np

from tests.pictures.conftest import Looking
from tests.pictures.making import data_url, drawn, reference, saved, tiles_of

IMAGE = drawn(70, 40)
FILE = saved(IMAGE)
TEXT = "What is it?"
RENDERED = "<|im_start|>User:<image>" + TEXT + "<end_of_utterance>\nAssistant:"


def check_sent(looking: Looking, text: str = RENDERED) -> None:
    """The last request has the ids of `text` and the pixels of IMAGE."""
    sent = looking.seen[-1]
    extra = {"add_special_tokens": False, "do_rescale": False, "do_normalize": False}
    want = reference(looking.folder, "idefics3")(
        text=text, images=[[IMAGE]], return_tensors="np", **extra
    )
    assert list(sent.prompt_ids) == want["input_ids"][0].tolist()
    (picture,) = sent.pictures
    pixels = want["pixel_values"][0].transpose(0, 2, 3, 1).astype(np.uint8)
    np.testing.assert_array_equal(tiles_of(picture.pixels, picture.shape), pixels)


def test_chat_completions(looking: Looking) -> None:
    part = {"type": "image_url", "image_url": {"url": data_url(FILE), "detail": "auto"}}
    content = [part, {"type": "text", "text": TEXT}]
    answer = looking.post(
        "/v1/chat/completions", messages=[{"role": "user", "content": content}], max_tokens=1
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens"] == len(looking.seen[-1].prompt_ids)
    check_sent(looking)
