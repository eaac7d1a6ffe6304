"""What the worker says of itself: the API description, its examples, /docs, /info, /metrics."""

from __future__ import annotations

import re
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rbee_worker.server.examples import EXAMPLES
from rbee_worker.server.routes import OPERATIONS
from tests.server.fake_engine import Fake
from tests.server.served import Served


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, found in EXAMPLES.items() for name in found]
)
def test_examples_work_as_they_stand(served: Served, path: str, name: str) -> None:
    response = served.http.post(path, json=EXAMPLES[path][name])
    if path in (
        "/v1/classify",
        "/v1/audio/speech",
    ):  # test_vectors.py, tests/speech: models that can
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "wrong_model"
    else:
        assert response.status_code == 200, response.text


def test_the_document_has_every_route_and_only_those(served: Served) -> None:
    document = served.http.get("/openapi.json").json()
    described = {(m.upper(), p) for p, ops in document["paths"].items() for m in ops}
    assert described == {(op.method, op.path.replace(":path", "")) for op in OPERATIONS}
    assert document["openapi"].startswith("3.1")
    deprecated = {
        p for p, ops in document["paths"].items() for o in ops.values() if "deprecated" in o
    }
    assert deprecated == {"/v1/inference", "/v1/inference/{job_id}/stream"}


def test_ranges_stand_in_the_document(served: Served) -> None:
    document = served.http.get("/openapi.json").json()
    fields = document["components"]["schemas"]["v1_jobs_request"]["properties"]
    temperature = fields["temperature"]["anyOf"][0]
    assert (temperature["minimum"], temperature["maximum"]) == (0, 2)
    assert fields["top_p"]["anyOf"][0]["exclusiveMinimum"] == 0
    names = [o["type"] for o in fields["stop"]["anyOf"]]
    assert names == ["string", "array", "null"]


def test_a_spoken_answer_is_described_as_sound_too(served: Served) -> None:
    route = served.http.get("/openapi.json").json()["paths"]["/v1/audio/speech"]["post"]
    media = {"audio/wav", "audio/pcm", "application/json", "text/event-stream"}
    assert set(route["responses"]["200"]["content"]) == media


def test_references_resolve(served: Served) -> None:
    text = served.http.get("/openapi.json").text
    known = served.http.get("/openapi.json").json()["components"]["schemas"]
    for name in set(re.findall(r'"#/components/schemas/([^"]+)"', text)):
        assert name in known


def test_docs_is_one_page_without_scripts_or_outside_addresses(served: Served) -> None:
    page = served.http.get("/docs").text
    for op in OPERATIONS:
        assert op.path.replace(":path", "") in page
    assert "<script" not in page
    assert not re.search(r"https?://", page)


def test_info(served: Served) -> None:
    info = served.http.get("/info").json()
    assert info["implementation"] == "rbee-worker"
    assert info["device"] == "cpu"
    assert info["port"] == served.settings.port
    assert info["status"] == "ready"
    assert info["eos"][0]["origins"] == ["config.json", "chat template"]
    assert info["determinism"]["kind"] == "bitwise"
    assert info["limits"]["queue"] == 256
    by_name = {p["name"]: p for p in info["parameters"]}
    assert by_name["temperature"]["range"] == "[0, 2]"
    assert "llama.cpp" in by_name["repeat_last_n"]["meaning"]


def test_status_is_busy_while_there_is_work() -> None:
    with Served(Fake(hold=threading.Event(), hold_at=9)) as served:
        job = served.http.post("/v1/jobs", json={"prompt": "x", "max_tokens": 50}).json()
        assert served.http.get("/info").json()["status"] == "busy"
        served.http.delete(f"/v1/jobs/{job['job_id']}")


def test_metrics_count_what_happened() -> None:
    with Served() as served:
        body = {"prompt": "x", "max_tokens": 10}
        for _ in range(3):
            served.http.post("/v1/infer", json=body)
        served.http.post("/v1/infer", json={**body, "max_tokens": 900})
        served.http.post("/v1/infer", json={**body, "top_p": 7})
        response = served.http.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        values = {
            (s.name, *s.labels.values()): s.value
            for family in text_string_to_metric_families(response.text)
            for s in family.samples
        }
    assert values["rbee_ready",] == 1
    assert values["rbee_requests_total",] == 4
    assert values["rbee_stops_total", "MAX_TOKENS"] == 3
    assert values["rbee_stops_total", "EOS"] == 1
    assert values["rbee_requests_refused_total", "INVALID_REQUEST"] == 1
    assert values["rbee_time_to_first_token_seconds_count",] == 4
    assert values["rbee_request_seconds_count",] == 4
    assert values["rbee_inter_token_seconds_count",] > 30
    assert values["rbee_kv_usage",] == 0
    assert values["rbee_queue_depth",] == 0
    assert {"rbee_running", "rbee_preemptions_total", "rbee_engine_restarts_total"} <= {
        key[0] for key in values
    }


def test_stats(served: Served) -> None:
    stats = served.http.get("/v1/stats").json()
    assert stats["state"] == "ready"
    assert stats["jobs"] == stats["running"] == stats["queue_depth"] == 0
    assert stats["kv_usage"] == 0
