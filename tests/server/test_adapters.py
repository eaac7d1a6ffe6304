"""Adapters over HTTP: named as the model of any request, loaded and unloaded where the operator
allows it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.server import test_served_names as served_names
from tests.server.fake_adapters import adapter
from tests.server.fake_engine import Fake
from tests.server.fake_speech import SPEECH, speaking_fake
from tests.server.served import Served, wait_for
from tests.server.test_every_parameter import BASE

NAMED = [path for path in served_names.NAMED if path not in served_names.OTHERS]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served(Fake(adapters=(adapter("bees/hum"),)), model="hive", lora_slots=3) as server:
        yield server


@pytest.fixture(scope="module")
def speaker() -> Iterator[Served]:
    fake = speaking_fake(adapters=(adapter("bees/hum"),))
    with Served(fake, model="hive", lora_slots=3) as server:
        yield server


@pytest.mark.parametrize("path", NAMED)
def test_every_route_takes_an_adapters_name(served: Served, speaker: Served, path: str) -> None:
    """The jobs that a route begins get the adapter that its `model` names, and no others do."""
    served = speaker if path == SPEECH else served
    for name, chosen in (("bees/hum", "bees/hum"), ("hive", ""), (None, "")):
        body = BASE[path] if name is None else {**BASE[path], "model": name}
        before = len(served.engine.seen)
        answer = served.http.post(path, json=body)
        assert answer.status_code in (200, 201, 202), answer.text
        asked = [request for request, _, _ in served.engine.seen[before:]]
        assert {request.adapter for request in asked} <= {chosen}
        line = json.loads(answer.text.splitlines()[-1])  # some answer in lines
        if "model" in line and name is not None:
            assert line["model"] == name


def test_models_are_listed_with_adapters(served: Served) -> None:
    client = openai.OpenAI(base_url=served.url + "/v1", api_key=served.token)
    served.others.append(client)
    assert [model.id for model in client.models.list()] == ["hive", "bees/hum"]
    assert client.models.retrieve("bees/hum").id == "bees/hum"
    assert served.http.get("/info").json()["names"] == ["hive", "bees/hum"]
    told = client.chat.completions.create(
        model="bees/hum", messages=[{"role": "user", "content": "Hum"}]
    )
    assert told.model == "bees/hum"


def test_load_list_unload(served: Served) -> None:
    body = {"name": "new", "ref": "/somewhere", "scale": 0.5}
    card = {"key": "key of /somewhere", "rank": 4, "bytes": 512, "base": ""}
    assert served.http.post("/v1/adapters", json=body).json() == {**body, **card}
    listed = served.http.get("/v1/adapters").json()
    assert [one["name"] for one in listed["data"]] == ["bees/hum", "new"]
    assert listed["slots"] == 8
    assert listed["loadable"] is True
    assert served.http.post("/v1/infer", json={"prompt": "Hum", "model": "new"}).is_success
    assert served.http.delete("/v1/adapters/new").json()["name"] == "new"
    gone = served.http.post("/v1/infer", json={"prompt": "Hum", "model": "new"})
    assert gone.status_code == 404
    assert gone.json()["error"]["code"] == "model_not_found"
    again = served.http.delete("/v1/adapters/new")
    assert again.status_code == 404
    assert "\n" not in again.json()["error"]["message"]


def test_names_with_every_character_that_they_may_have(served: Served) -> None:
    for name in ("A.b-c_d/E.1/2", "7", "x" * 64):
        assert served.http.post("/v1/adapters", json={"name": name, "ref": "/x"}).is_success
        assert served.http.get(f"/v1/models/{name}").json()["id"] == name
        assert served.http.post("/v1/infer", json={"prompt": "Hum", "model": name}).is_success
        assert served.http.delete(f"/v1/adapters/{name}").json()["name"] == name
    for name in (
        "x" * 65,
        "ü",
        "a\n",
        "a b",
        "a/",
        "/a",
        "a//b",
        "a/../b",
        "..",
        ".a",
        "-a",
        "a;b",
    ):
        refused = served.http.post("/v1/adapters", json={"name": name, "ref": "/x"})
        assert refused.status_code == 400, name
        assert "comes first, also after a slash" in refused.json()["error"]["message"]
        missing = served.http.post("/v1/infer", json={"prompt": "Hum", "model": name})
        assert missing.status_code == 404, name
        assert "\n" not in missing.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"ref": "/x"}, 400, "name"),
        ({"name": "x"}, 400, "ref"),
        ({"name": "", "ref": "/x"}, 400, "name"),
        ({"name": "a b", "ref": "/x"}, 400, "letters, digits"),
        ({"name": "hive", "ref": "/x"}, 400, "a name of the model itself"),
        ({"name": "x", "ref": "/x", "scale": "big"}, 400, "scale"),
        ({"name": "x", "ref": "/x", "rank": 3}, 400, "rank"),
        ({"name": "x", "ref": "/damaged"}, 400, "/damaged: damaged."),
    ],
)
def test_what_cannot_be_loaded(
    served: Served, body: dict[str, Any], status: int, said: str
) -> None:
    refused = served.http.post("/v1/adapters", json=body)
    assert refused.status_code == status
    assert said in refused.json()["error"]["message"]


def test_an_adapter_in_use_stays() -> None:
    hold = threading.Event()
    with Served(Fake(adapters=(adapter("a"),), hold=hold), lora_slots=1) as served:
        job = served.http.post("/v1/jobs", json={"prompt": "Hum", "model": "a"}).json()
        refused = served.http.delete("/v1/adapters/a")
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "bad_adapter"
        assert "1 request uses" in refused.json()["error"]["message"]
        hold.set()
        url = f"/v1/jobs/{job['job_id']}"
        wait_for(lambda: served.http.get(url).json()["state"] not in ("queued", "running"))
        assert served.http.delete("/v1/adapters/a").is_success


def test_without_the_operators_switch() -> None:
    with Served(Fake(adapters=(adapter("a"),)), lora="a=/adapter") as served:
        listed = served.http.get("/v1/adapters").json()
        assert [one["name"] for one in listed["data"]] == ["a"]
        assert listed["loadable"] is False
        for refused in (
            served.http.post("/v1/adapters", json={"name": "b", "ref": "/b"}),
            served.http.delete("/v1/adapters/a"),
        ):
            assert refused.status_code == 403
            assert "--lora-slots" in refused.json()["error"]["message"]
