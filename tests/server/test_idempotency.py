"""Idempotency-Key: a request that is sent again starts no second job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.server.fake_engine import Fake
from tests.server.reading import DONE, events
from tests.server.served import Served, wait_for

BODY = {"prompt": "a bee", "max_tokens": 3, "seed": 1}


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with Served() as served:
        yield served


def post(
    served: Served, key: str, body: dict[str, Any] = BODY, path: str = "/v1/jobs"
) -> httpx.Response:
    return served.http.post(path, json=body, headers={"Idempotency-Key": key})


def listed(served: Served) -> int:
    return len(served.http.get("/v1/jobs").json()["jobs"])


def test_the_same_request_again_gives_the_same_job(shared: Served) -> None:
    before = listed(shared)
    first = post(shared, "one")
    assert first.status_code == 200
    assert "idempotent-replayed" not in first.headers
    turned = dict(reversed(BODY.items()))
    for again in (post(shared, "one"), post(shared, "one", turned)):
        assert again.status_code == 200
        assert again.json() == first.json()
        assert again.headers["idempotent-replayed"] == "true"
    assert listed(shared) == before + 1
    assert events(shared.http.get(first.json()["sse_url"]).text)[-1] == DONE
    assert post(shared, "one").json() == first.json()  # also once it has ended
    assert post(shared, "another").json() != first.json()
    assert listed(shared) == before + 2


def test_the_old_name_of_the_route_has_the_same_keys(shared: Served) -> None:
    first = post(shared, "old").json()
    again = post(shared, "old", path="/v1/inference").json()
    assert again["job_id"] == first["job_id"]
    assert again["sse_url"] == f"/v1/inference/{first['job_id']}/stream"


def test_another_body_under_the_same_key_is_a_conflict(shared: Served) -> None:
    job = post(shared, "taken").json()["job_id"]
    for other in ({**BODY, "seed": 2}, {"prompt": "a bee"}, {"operation": "status"}):
        refused = post(shared, "taken", other)
        assert refused.status_code == 409
        error = refused.json()["error"]
        assert (error["code"], error["param"]) == ("idempotency_key_reused", "idempotency-key")
        assert job in error["message"]
        assert "bee" not in error["message"]


def test_a_request_that_is_refused_leaves_its_key_free(shared: Served) -> None:
    assert post(shared, "free", {"prompt": "a bee", "top_p": 7}).status_code == 400
    assert post(shared, "free").status_code == 200


def test_a_body_that_is_refused_is_no_body_that_was_kept(shared: Served) -> None:
    """A name given twice: the last value counts nowhere, not even as that of the kept job."""
    assert post(shared, "twice").status_code == 200
    twice = b'{"prompt": "other", ' + json.dumps(BODY).encode().removeprefix(b"{")
    headers = {"Idempotency-Key": "twice", "Content-Type": "application/json"}
    refused = shared.http.post("/v1/jobs", content=twice, headers=headers)
    assert refused.status_code == 400
    assert "given more than once" in refused.json()["error"]["message"]


def test_a_job_of_status_is_one_too(shared: Served) -> None:
    first, again = (post(shared, "status", {"operation": "status"}) for _ in range(2))
    assert first.json()["job_id"] == again.json()["job_id"]
    assert again.json()["status"]["id"] == first.json()["status"]["id"]


def test_of_requests_at_the_same_time_one_begins(shared: Served) -> None:
    before = listed(shared)
    with ThreadPoolExecutor(12) as pool:
        told = [r.json() for r in pool.map(lambda _: post(shared, "crowd"), range(12))]
    assert all(t == told[0] for t in told)
    assert listed(shared) == before + 1


def test_a_key_is_kept_as_long_as_its_job() -> None:
    with Served(Fake(), keep_jobs=1) as served:
        first = post(served, "a").json()
        wait_for(lambda: served.engine.held == 0)
        second = post(served, "b").json()
        wait_for(lambda: served.engine.held == 0)
        assert served.http.get(f"/v1/jobs/{first['job_id']}").status_code == 404
        assert post(served, "b").json() == second
        assert post(served, "a", {**BODY, "seed": 9}).status_code == 200


@pytest.mark.parametrize("key", ["", "a b", "é".encode(), "x" * 256])
def test_a_key_that_cannot_be_kept_is_refused(shared: Served, key: Any) -> None:
    refused = post(shared, key)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "bad_idempotency_key"
    assert post(shared, "x" * 255).status_code == 200


def test_two_keys_are_refused(shared: Served) -> None:
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    refused = shared.http.post("/v1/jobs", json=BODY, headers=twice)
    assert refused.json()["error"]["code"] == "repeated_header"


def test_a_lost_answer_is_found_again(shared: Served) -> None:
    """What the key is for: the client saw its connection break, and does not know what became of
    its request."""
    raw = json.dumps({**BODY, "max_tokens": 40}).encode()
    request = shared.http.build_request(
        "POST", "/v1/jobs", content=raw, headers={"Idempotency-Key": "lost"}
    )
    shared.http.send(request, stream=True).close()
    found = post(shared, "lost", {**BODY, "max_tokens": 40})
    assert found.headers["idempotent-replayed"] == "true"
    url = f"/v1/jobs/{found.json()['job_id']}"
    wait_for(lambda: shared.http.get(url).json()["state"] == "done")
    assert shared.http.get(url).json()["tokens_out"] == 40
