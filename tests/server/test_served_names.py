"""The model's names: --served-model-name in every route; and the worker's own sampling defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from rbee_worker.server.routes import OPERATIONS
from tests.server.fake_speech import SPEECH, speaking_fake
from tests.server.served import Served
from tests.server.test_every_parameter import BASE

NAMES: dict[str, Any] = {"model": "hf:bees/hive", "served_model_name": "bee, gpt-4o"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served(**NAMES, temperature=0.25, top_k=-1, max_tokens=9, seed=7) as server:
        yield server


@pytest.fixture(scope="module")
def speaker() -> Iterator[Served]:
    with Served(speaking_fake(), **NAMES) as server:
        yield server


def test_every_name_is_listed_and_the_reference_is_not(served: Served) -> None:
    client = openai.OpenAI(base_url=served.url + "/v1", api_key=served.token)
    served.others.append(client)
    assert [model.id for model in client.models.list()] == ["bee", "gpt-4o"]
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"
    assert client.models.retrieve("hf:bees/hive").id == "bee"
    assert served.http.get("/info").json()["names"] == ["bee", "gpt-4o"]
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-5")
    assert "bee" in str(caught.value)


OTHERS = ("/v1/classify", "/infill")  # this model is not made for them
NAMED = [
    op.path
    for op in OPERATIONS
    if "model" in getattr(op.body, "__struct_fields__", ())
    and not op.same_as
    and op.path not in OTHERS
]


@pytest.mark.parametrize("path", NAMED)
def test_every_route_takes_every_name(served: Served, speaker: Served, path: str) -> None:
    served = speaker if path == SPEECH else served
    body = {**BASE[path], "model": "nobody"}
    assert served.http.post(path, json=body).status_code == 404
    for name in ("bee", "gpt-4o", "hf:bees/hive"):
        answer = served.http.post(path, json={**body, "model": name})
        assert answer.status_code in (200, 201, 202), answer.text
        line = json.loads(answer.text.splitlines()[-1])
        assert isinstance(line, list) or line.get("model", "bee") == "bee"


def test_the_workers_defaults_hold_where_the_request_is_silent(served: Served) -> None:
    def sampling(**more: Any) -> dict[str, Any]:
        answer = served.http.post("/v1/infer", json={"prompt": "Hum", **more})
        told: dict[str, Any] = answer.json()["sampling"]
        return told

    told = sampling()
    option = {"origin": "worker option"}
    assert told["temperature"] == {"value": 0.25, **option}
    assert told["top_k"] == {"value": 0, **option}  # -1 means off
    assert told["max_tokens"] == {"value": 9, **option}
    assert told["seed"] == {"value": 7, **option}
    assert told["top_p"] == {"value": 1.0, "origin": "default"}
    assert sampling(temperature=1, max_tokens=3)["temperature"]["origin"] == "request"
    talk = [{"role": "user", "content": "Hum"}]
    told = sampling(prompt=None, messages=talk, chat_defaults=True)
    assert told["temperature"] == {"value": 0.25, **option}
    assert told["top_p"] == {"value": 0.95, "origin": "worker default (chat)"}
    usage = served.http.post("/v1/chat/completions", json={"messages": talk}).json()["usage"]
    assert usage["completion_tokens"] == 9


def test_info_says_what_holds_for_each_kind_of_request(served: Served) -> None:
    told = served.http.get("/info").json()["defaults"]
    assert told["chat"]["temperature"] == {"value": 0.25, "origin": "worker option"}
    assert told["chat"]["min_p"] == {"value": 0.05, "origin": "worker default (chat)"}
    assert told["completions"]["min_p"] == {"value": 0.0, "origin": "default"}
    with Served() as plain:
        told = plain.http.get("/info").json()["defaults"]
        assert told["completions"]["max_tokens"] == {"value": 16, "origin": "default"}
        assert told["chat"]["seed"] == {"value": None, "origin": "random"}
