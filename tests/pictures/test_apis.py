"""Every API takes pictures, and all of them send the engine the same: checked against the pixels
and ids that transformers' processor makes of the same files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbee_worker.engine.messages import Submit
from tests.pictures.conftest import Looking, script
from tests.pictures.making import data_url, drawn, encoded, reference, saved, tiles_of
from tests.server.served import Served, wait_for

IMAGE = drawn(70, 40)
FILE = saved(IMAGE)
TEXT = "What is it?"
RENDERED = "<|im_start|>User:<image>" + TEXT + "<end_of_utterance>\nAssistant:"


def check_sent(looking: Looking, rendered: str = RENDERED) -> None:
    """The last request has the ids of `rendered` and the pixels of IMAGE."""
    sent = looking.seen[-1]
    extra = {"add_special_tokens": False, "do_rescale": False, "do_normalize": False}
    want = reference(looking.folder, "idefics3")(
        text=rendered, images=[[IMAGE]], return_tensors="np", **extra
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


def test_responses_and_the_turn_after_it(looking: Looking) -> None:
    content = [
        {"type": "input_image", "image_url": data_url(FILE)},
        {"type": "input_text", "text": TEXT},
    ]
    given = {"input": [{"role": "user", "content": content}], "max_output_tokens": 1}
    answer = looking.post("/v1/responses", **given)
    assert answer.status_code == 200, answer.text
    check_sent(looking)
    counted = looking.post("/v1/responses/input_tokens", input=given["input"])
    assert counted.json()["input_tokens"] == len(looking.seen[-1].prompt_ids)
    before = looking.seen[-1].pictures
    again = looking.post(
        "/v1/responses", input="And now?", previous_response_id=answer.json()["id"]
    )
    assert again.status_code == 200, again.text
    assert [p.digest for p in looking.seen[-1].pictures] == [p.digest for p in before]


def test_anthropics_messages(looking: Looking) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": encoded(FILE)}
    content = [{"type": "image", "source": source}, {"type": "text", "text": TEXT}]
    messages = [{"role": "user", "content": content}]
    answer = looking.post("/v1/messages", messages=messages, max_tokens=1)
    assert answer.status_code == 200, answer.text
    check_sent(looking)
    counted = looking.post("/v1/messages/count_tokens", messages=messages)
    assert counted.json() == {"input_tokens": len(looking.seen[-1].prompt_ids)}


def test_ollama(looking: Looking) -> None:
    message = {"role": "user", "content": TEXT, "images": [encoded(FILE)]}
    chat = looking.post("/api/chat", messages=[message], stream=False)
    assert chat.status_code == 200, chat.text
    check_sent(looking)
    answer = looking.post("/api/generate", prompt=TEXT, images=[encoded(FILE)], stream=False)
    assert answer.status_code == 200, answer.text
    check_sent(looking)
    raw = looking.post(
        "/api/generate", prompt=f"{TEXT}<image>", images=[encoded(FILE)], raw=True, stream=False
    )
    assert raw.status_code == 200, raw.text
    check_sent(looking, f"{TEXT}<image>")


def test_llamacpps_completion(looking: Looking) -> None:
    prompt = {"prompt_string": f"{TEXT}<__media__>", "multimodal_data": [encoded(FILE)]}
    answer = looking.post("/completion", prompt=prompt, n_predict=1)
    assert answer.status_code == 200, answer.text
    check_sent(looking, f"{TEXT}<image>")
    assert looking.served.http.get("/props").json()["modalities"]["vision"] is True


def test_jobs(looking: Looking) -> None:
    part = {"type": "image_url", "image_url": {"url": data_url(FILE)}}
    content = [part, {"type": "text", "text": TEXT}]
    talk = looking.post("/v1/infer", messages=[{"role": "user", "content": content}], max_tokens=1)
    assert talk.status_code == 200, talk.text
    check_sent(looking)
    plain = looking.post("/v1/infer", prompt=f"{TEXT}<image>", images=[data_url(FILE)])
    assert plain.status_code == 200, plain.text
    check_sent(looking, f"{TEXT}<image>")
    ids = looking.post("/v1/infer", token_ids=looking.seen[-1].prompt_ids, images=[encoded(FILE)])
    assert ids.status_code == 200, ids.text
    check_sent(looking, f"{TEXT}<image>")


def test_several_answers_see_the_same_picture(looking: Looking) -> None:
    part = {"type": "image_url", "image_url": {"url": data_url(FILE)}}
    content = [part, {"type": "text", "text": TEXT}]
    message = {"role": "user", "content": content}
    answer = looking.post("/v1/chat/completions", messages=[message], n=2, max_tokens=1)
    assert answer.status_code == 200, answer.text
    one, other = looking.seen[-2:]
    assert one.prompt_ids == other.prompt_ids
    assert one.pictures == other.pictures != ()


def test_that_pictures_are_taken_is_said(looking: Looking) -> None:
    http = looking.served.http
    assert http.get("/info").json()["purpose"]["pictures"] is True
    (card,) = http.get("/v1/models").json()["data"]
    assert card["input_modalities"] == ["text", "image"]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def asked(looking: Looking, *parts: Any) -> Any:
    content = [*parts, text(TEXT)]
    return looking.post("/v1/chat/completions", messages=[{"role": "user", "content": content}])


def image(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


@pytest.mark.parametrize(
    ("part", "field", "says"),
    [
        (image("https://example.com/a.png"), "", "is not fetched: this worker opens no conn"),
        (image("file:///etc/passwd"), "", "is not fetched"),
        (image("a.png"), "", "is no data URL"),
        (image("data:image/png,abc"), "", "is a data URL without base64"),
        (image("data:image/png;base64,!"), "", "is not valid base64"),
        (image(data_url(b"GIF89a" + bytes(20))), "", "is GIF; PNG, JPEG and WebP are read"),
        (image(data_url(FILE[:200])), "", "is damaged or incomplete"),
        (image(data_url(FILE), detail="original"), ".image_url.detail", "is not one of the allow"),
        ({"type": "input_audio", "input_audio": {}}, ".type", "is not one of the allowed values"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_place(
    looking: Looking, part: dict[str, Any], field: str, says: str
) -> None:
    answer = asked(looking, image(data_url(FILE)), part)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert f"messages[0].content[1]{field}" in json.dumps(error)
    assert says in json.dumps(error)


def test_a_system_message_has_no_picture(looking: Looking) -> None:
    talk = [
        {"role": "system", "content": [image(data_url(FILE))]},
        {"role": "user", "content": "x"},
    ]
    answer = looking.post("/v1/chat/completions", messages=talk)
    assert answer.status_code == 400
    assert "only user messages have it" in answer.text


def test_a_job_goes_on_with_its_pictures_in_another_process(
    looking: Looking, tmp_path: Path
) -> None:
    """The journal has the files, and the pictures stand where they stood."""
    settings = {"journal": str(tmp_path / "j"), "audit_log": str(tmp_path / "audit")}
    first: list[Submit] = []
    second: list[Submit] = []
    body = {
        "messages": [{"role": "user", "content": [image(data_url(FILE)), text(TEXT)]}],
        "max_tokens": 50_000,
    }
    endless = partial(script, folder=looking.folder, ids=[5] * 50_000)
    with Served(start=endless(first), drain_timeout=0, **settings) as served:
        job = served.http.post("/v1/jobs", json=body).json()["job_id"]
        wait_for(lambda: served.http.get(f"/v1/jobs/{job}").json()["tokens_out"] > 0)
    with Served(start=endless(second), **settings) as served:
        wait_for(lambda: bool(second))
        served.http.delete(f"/v1/jobs/{job}")
    assert second[0].prompt_ids == first[0].prompt_ids
    assert second[0].pictures == first[0].pictures != ()
    assert second[0].output_ids
    assert encoded(FILE)[:40] not in (tmp_path / "audit").read_text()


def test_a_finished_job_lets_its_pictures_go(looking: Looking) -> None:
    body = {"prompt": f"{TEXT}<image>", "images": [data_url(FILE)], "max_tokens": 1}
    job = looking.post("/v1/jobs", **body).json()["job_id"]
    assert looking.served.http.get(f"/v1/jobs/{job}/stream").status_code == 200
    kept = looking.served.service.worker.jobs.get(job)
    assert kept is not None
    assert kept.request.pictures == ()
