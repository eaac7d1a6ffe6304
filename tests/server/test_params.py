"""Strict parameters over HTTP: every fault at once, nothing silently ignored."""

from __future__ import annotations

from typing import Any

import pytest

from rbee_worker.params import PARAMETERS, names
from tests.server.served import Served

SECRET = "sphinx of black quartz"
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/jobs", {"prompt": SECRET}),
    ("/v1/infer", {"prompt": SECRET}),
    ("/v1/inference", {"prompt": SECRET}),
    ("/v1/completions", {"prompt": SECRET}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": SECRET}]}),
]
WRONG: dict[str, Any] = {
    "temperature": 5,
    "top_p": 0,
    "top_k": -2,
    "min_p": 1.5,
    "repetition_penalty": 0,
    "presence_penalty": "high",
    "frequency_penalty": True,
    "logit_bias": {"999999": 1},
    "seed": -1,
    "stop": [""],
    "max_tokens": 1.5,
    "min_tokens": -1,
    "no_such_thing": 1,
}


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_all_faults_are_listed_at_once(served: Served, path: str, body: dict[str, Any]) -> None:
    response = served.http.post(path, json={**body, **WRONG, "timeout_s": -1})
    assert response.status_code == 400
    answer = response.json()
    found = {e["field"]: e for e in answer["errors"]}
    assert found.keys() == {*WRONG, "timeout_s"}
    assert all(e.keys() == {"field", "constraint", "message", "value"} for e in answer["errors"])
    assert answer["error"]["errors"] == answer["errors"]
    assert found["temperature"]["value"] == 5
    assert SECRET not in response.text


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_every_parameter_of_the_table_is_read_by_its_route(
    served: Served, path: str, body: dict[str, Any]
) -> None:
    """An impossible value of any key is noticed: no key is accepted and dropped."""
    surface: Any = {"/v1/completions": "completions", "/v1/chat/completions": "chat"}.get(
        path, "job"
    )
    for key, parameter in names(surface).items():
        if parameter.role == "inert" or key in body or key == "operation":
            continue
        if path == "/v1/infer" and key in ("trace", "stream"):
            continue
        impossible = {"no": ["such", "value"]}
        objects = ("template_args", "chat_template_kwargs", "logit_bias")
        if key in (*objects, "json_schema", "guided_json"):
            impossible = 7  # type: ignore[assignment]
        response = served.http.post(path, json={**body, key: impossible})
        assert response.status_code in (400, 404), key
        fields = {e["field"] for e in response.json()["errors"]}
        assert any(key in f or f in ("prompt", "model") for f in fields), (key, fields)


def test_inert_keys_change_nothing_and_are_named_in_info(served: Served) -> None:
    inert = served.http.get("/info").json()["inert"]
    assert set(inert) == {p.name for p in PARAMETERS if p.role == "inert"}
    assert {"user", "metadata", "store", "service_tier"} <= set(inert)
    plain = {"prompt": "x", "max_tokens": 5}
    for path in ("/v1/infer", "/v1/completions"):
        answers = [
            served.http.post(path, json={**plain, **extra}).json()
            for extra in ({}, dict.fromkeys(inert, "anything"))
        ]
        texts = [a.get("text") or a["choices"][0]["text"] for a in answers]
        assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "y"}]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"token_ids": []}, "token_ids"),
        ({"token_ids": [1, 9999]}, "token_ids"),
        ({"token_ids": ["a"]}, "token_ids"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "spell": 1}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [1]}]}, "messages[0]"),
        ({"prompt": "x", "template_args": 3}, "template_args"),
        ({"prompt": "x", "trace": "yes"}, "trace"),
    ],
)
def test_envelopes_are_checked(served: Served, body: dict[str, Any], field: str) -> None:
    response = served.http.post("/v1/jobs", json={**body, "top_k": -7})
    assert response.status_code == 400
    fields = [e["field"] for e in response.json()["errors"]]
    assert fields[0].startswith(field), fields
    assert fields[-1] == "top_k"


def test_null_is_silence(served: Served) -> None:
    keys = [k for k, p in names("job").items() if p.role != "transport"]
    response = served.http.post("/v1/infer", json={"prompt": "x", **dict.fromkeys(keys)})
    assert response.status_code == 200
    origins = {v["origin"] for v in response.json()["sampling"].values()}
    assert origins == {"default", "random"}


def test_text_routes(served: Served) -> None:
    ids = served.http.post("/tokenize", json={"text": "bê"}).json()
    assert ids == {"tokens": [98, 195, 170], "count": 3, "pieces": ["b", "Ã", "ª"]}
    assert served.http.post("/tokenize", json={"content": "b"}).json()["tokens"] == [98]
    pieces = served.http.post("/tokenize", json={"content": "bê", "with_pieces": True}).json()
    told = [{"id": 98, "piece": "b"}, {"id": 195, "piece": [195]}, {"id": 170, "piece": [170]}]
    assert pieces["tokens"] == told
    text = served.http.post("/detokenize", json={"tokens": [98, 195, 170, 259]}).json()
    assert text == {"text": "bê<|im_end|>", "content": "bê<|im_end|>"}
    talk = {"messages": [{"role": "developer", "content": "x"}], "add_generation_prompt": False}
    prompt = served.http.post("/apply-template", json=talk).json()["prompt"]
    assert prompt == "<|im_start|>system\nx<|im_end|>\n"
    for path, body in (
        ("/tokenize", {}),
        ("/tokenize", {"text": "x", "content": "x"}),
        ("/tokenize", {"text": "x", "odd": 1}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [4000]}),
        ("/detokenize", {}),
        ("/apply-template", {"messages": []}),
        ("/apply-template", {**talk, "chat_template": "{{ 1 }}"}),
    ):
        assert served.http.post(path, json=body).status_code == 400, (path, body)
