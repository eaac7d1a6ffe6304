"""/v1/audio/speech of a whole worker, with a tiny MetaVoice and a tiny EnCodec."""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rbee_worker.session.client import EngineClient
from rbee_worker.speech.codec import Codec
from rbee_worker.speech.second_stage import SecondStage
from rbee_worker.speech.wav import pcm
from tests import speaking
from tests.patience import LIMIT_S
from tests.process.held import Hold, hold
from tests.process.held_engine import HELD
from tests.server.served import Served, wait_for
from tests.server.spawned import Spawned
from tests.server.talking import Talking
from tests.server.test_restart import engine_of
from tests.speech import codec, voices
from tests.tokenizer.templates import CHATML

__all__ = ["hold"]

TEXT = "The thin man."
ASK: dict[str, Any] = {"input": TEXT, "seed": 7, "max_tokens": 80}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("speech")
    speaking.write(made / "model")
    voices.write(made / "model")
    codec.write(made / "codec")
    return made


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    start: Any = partial(EngineClient.start, in_process=True)
    model, sounds = str(folder / "model"), str(folder / "codec")
    own: dict[str, Any] = {"model": model, "codec": sounds, "backend": "cpu", "threads": 1}
    with Served(token="", start=start, **own) as made:
        made.http.get("/v1/loading/progress")
        yield made


def post(served: Served, **changes: Any) -> httpx.Response:
    return served.http.post("/v1/audio/speech", json=ASK | changes, timeout=LIMIT_S)


def codes(served: Served, **changes: Any) -> dict[str, Any]:
    answer = post(served, response_format="tokens", **changes)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_codes_are_those_of_the_tokens_and_of_the_second_stage(
    served: Served, folder: Path
) -> None:
    first = codes(served, codebooks=2)
    body = {"prompt": TEXT, "seed": 7, "max_tokens": 80}
    drawn = served.http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    for book, row in enumerate(first["codes"]):
        of_book = [int(code) for code in re.findall(rf"<\|{book}:(\d+)\|>", drawn)]
        assert row == of_book[: len(row)]
        assert len(row) == first["frames"] > 8
    every = codes(served)
    assert every["codes"][:2] == first["codes"]
    stage = SecondStage(folder / "model" / "second_stage.safetensors")
    prompt = served.http.post("/tokenize", json={"content": TEXT}).json()["tokens"]
    text = [*(token - speaking.TEXT for token in prompt), speaking.END_RANK]
    frames = list(zip(*first["codes"], strict=True))
    want = stage.codes(text, frames, speaking.voice("plain", 1), seed=7)
    assert every["codes"] == want.tolist()


@pytest.mark.parametrize("books", [2, 8])
def test_sound_is_the_codec_s_of_these_codes(served: Served, folder: Path, books: int) -> None:
    given = np.array(codes(served, codebooks=books)["codes"])
    want = pcm(Codec(folder / "codec").samples(given))
    answer = post(served, response_format="pcm", codebooks=books)
    assert answer.headers["content-type"] == "audio/pcm;rate=24000;channels=1"
    assert answer.headers["x-seed"] == "7"
    assert answer.content == want
    whole = post(served, codebooks=books)
    assert whole.headers["content-type"] == "audio/wav"
    assert whole.content[44:] == want
    assert whole.content[40:44] == struct.pack("<I", 0xFFFFFFFF)
    parts = events(served, response_format="pcm", codebooks=books)
    audio = b"".join(base64.b64decode(e["audio"]) for e in parts[:-1])
    assert {e["type"] for e in parts[:-1]} == {"speech.audio.delta"}
    assert audio == want
    done = parts[-1]
    assert (done["type"], done["frames"], done["stop"]) == (
        "speech.audio.done",
        given.shape[1],
        "MAX_TOKENS",
    )
    assert done["usage"]["output_tokens"] == 80
    assert done["strays"] + done["unpaired"] + 2 * done["frames"] == 80


def events(served: Served, **changes: Any) -> list[dict[str, Any]]:
    answer = post(served, stream_format="sse", **changes)
    return events_of([line for line in answer.text.splitlines() if line])


def events_of(lines: list[str]) -> list[dict[str, Any]]:
    """What the lines of a stream say that are not empty."""
    told = [line.removeprefix("data: ") for line in lines]
    assert told[-1] == "[DONE]"
    return [json.loads(line) for line in told[:-1]]


def test_codes_leave_as_they_are_drawn(
    served: Served, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones before the last ones exist."""
    for owner, name, value in HELD:
        monkeypatch.setattr(owner, name, value)
    hold.set(40)  # of 80
    more = {"response_format": "tokens", "codebooks": 2, "stream_format": "sse"}
    lines: list[str] = []
    with served.http.stream("POST", "/v1/audio/speech", json=ASK | more) as answer:
        for line in answer.iter_lines():
            lines += [line] if line else []
            hold.release()
    *parts, done = events_of(lines)
    assert len(parts) > 1
    joined = [sum((p["codes"][book] for p in parts), []) for book in (0, 1)]  # noqa: RUF017
    assert joined == codes(served, codebooks=2)["codes"]
    assert done["frames"] == len(joined[0])


def test_voices_are_names_clips_or_none(served: Served) -> None:
    clip = voices.clip(voices.tone(4.0, 22050), 22050)
    given = "data:audio/wav;base64," + base64.b64encode(clip).decode()
    answer = post(served, voice=given, response_format="tokens")
    assert answer.headers["x-warning"] == "voice: 4 s of a voice; its authors ask for 30 s"
    found = {
        str(codes(served, voice=voice, temperature=0)["codes"])
        for voice in ("default", "none", given)
    }
    assert len(found) == 3
    assert codes(served, voice=given) == codes(served, voice=given)
    assert codes(served, guidance_scale=1.0)["codes"] != codes(served)["codes"]


@pytest.mark.parametrize(
    ("changes", "field", "why"),
    [
        ({"voice": "alloy"}, "voice", "there are: default, none or a clip"),
        ({"voice": "https://x/y.wav"}, "voice", "is not fetched"),
        ({"voice": "data:audio/mpeg;base64,SUQzBAA="}, "voice", "is an MP3 file"),
        ({"response_format": "mp3"}, "response_format", "ask for wav, pcm, tokens"),
        ({"response_format": "ogg"}, "response_format", "allowed"),
        ({"speed": 1.5}, "speed", "not implemented"),
        ({"instructions": "whisper"}, "instructions", "not implemented"),
        ({"codebooks": 4}, "codebooks", "must be 2 or 8"),
        ({"guidance_scale": 11}, "guidance_scale", "<= 10"),
        ({"input": ""}, "input", "length >= 1"),
        ({"input": "你好"}, "input", "U+4F60"),
        ({"max_tokens": 320}, "max_tokens", "room for"),
        ({"temperature": 9}, "temperature", "at most"),
        ({"logprobs": 1}, "logprobs", "no place"),
        ({"stop": ["x"]}, "stop", "no place"),
        ({"skip_special_tokens": True}, "skip_special_tokens", "no place"),
        ({"messages": []}, "messages", "not a parameter of speech"),
        ({"json_schema": {}}, "json_schema", ""),
        ({"vioce": "x"}, "vioce", ""),
    ],
)
def test_what_is_not_done_is_refused_by_its_field(
    served: Served, changes: dict[str, Any], field: str, why: str
) -> None:
    answer = post(served, **changes)
    assert answer.status_code == 400, answer.text
    (fault,) = answer.json()["errors"]
    assert fault["field"] == field
    assert why in fault["message"]


def test_what_the_model_does_not_do_is_refused(served: Served) -> None:
    for path, body in (
        ("/v1/embeddings", {"input": TEXT}),
        ("/v1/completions", {"prompt": TEXT, "echo": True, "logprobs": 1}),
        ("/v1/completions", {"prompt": TEXT, "response_format": {"type": "json_object"}}),
    ):
        answer = served.http.post(path, json=body)
        assert answer.status_code == 400, answer.text
    info = served.http.get("/info").json()
    assert info["purpose"]["speaks"] is True
    own = info["defaults"]["speech"]
    assert (own["temperature"]["value"], own["top_p"]["value"]) == (1.0, 0.95)


def test_another_model_says_that_it_does_not_speak(tmp_path: Path) -> None:
    with Talking(tmp_path, CHATML, ["x"], token="") as other:
        answer = post(other)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "wrong_model"
    assert "does not speak" in error["message"]
    assert "ask a worker whose model speaks" in error["message"]
    assert "\n" not in error["message"]


def test_frames_are_counted(served: Served) -> None:
    def told() -> float:
        lines = served.http.get("/metrics").text.splitlines()
        (line,) = [x for x in lines if x.startswith("rbee_speech_frames_total ")]
        return float(line.split()[1])

    before = told()
    assert codes(served)["frames"] == told() - before


@pytest.mark.slow
def test_a_killed_engine_and_a_client_that_leaves(folder: Path, hold: Hold) -> None:
    """The same bytes through a crash in the middle; a client that leaves ends its job."""
    args = ("--local-mode", "--port", "0", "--backend", "cpu", "--threads", "1")
    model = ("--model-ref", str(folder / "model"), "--codec", str(folder / "codec"))
    ask = ASK | {"response_format": "pcm", "codebooks": 2, "max_tokens": 400}
    with Spawned.held(hold, *args, *model) as worker:
        worker.ready()
        want = worker.http.post("/v1/audio/speech", json=ask).content
        got = b""
        hold.set(300)  # of 400
        with worker.http.stream("POST", "/v1/audio/speech", json=ask) as answer:
            for piece in answer.iter_raw():
                if not got:
                    hold.kill(engine_of(worker))
                got += piece
        assert got == want
        assert "rbee_engine_restarts_total 1.0" in worker.http.get("/metrics").text
        hold.set(300)
        with worker.http.stream("POST", "/v1/audio/speech", json=ask) as answer:
            next(answer.iter_raw())
        cancelled = 'rbee_stops_total{rule="CANCELLED"} 1.0'
        wait_for(lambda: cancelled in worker.http.get("/metrics").text)
        worker.signal()
        assert worker.wait() == 0, worker.errors
