"""Jobs: their events in order, streams before, during and after, states, listing, cancelling."""

from __future__ import annotations

import threading
import time

import pytest

from rbee_worker.server import job_store, jobs
from rbee_worker.types import ChatOptions, Constraint, Request, Resolved, SamplingParams, Started
from tests.server.fake_engine import Fake, answer_ids
from tests.server.reading import DONE, events, frames
from tests.server.served import Served, wait_for


def start(served: Served, **body: object) -> dict[str, str]:
    response = served.http.post("/v1/jobs", json={"prompt": "a bee", **body})
    assert response.status_code == 200, response.text
    created: dict[str, str] = response.json()
    return created


def test_events_come_in_the_documented_order(served: Served) -> None:
    job = start(served, max_tokens=40)
    found = frames(served.http.get(job["sse_url"]).text)
    kinds = [data if data == DONE else data["type"] for _, data in found]
    assert kinds[0] == "started"
    assert kinds[-2:] == ["end", DONE]
    assert set(kinds[1:-2]) <= {"token", "narration", "metrics"}
    assert [number for number, _ in found] == [*range(1, len(found)), None]


def test_started_has_every_parameter_with_its_origin(served: Served) -> None:
    job = start(served, max_tokens=3, temperature=0.5, seed=11)
    first = events(served.http.get(job["sse_url"]).text)[0]
    assert first["job_id"] == job["job_id"]
    assert first["seed"] == 11
    assert first["prompt_tokens"] == len("a bee")
    assert first["sampling"]["temperature"] == {"value": 0.5, "origin": "request"}
    assert first["sampling"]["top_p"] == {"value": 1.0, "origin": "default"}
    assert first["exempt_ids"] == [259]


def test_text_and_ids_are_the_engines(served: Served) -> None:
    job = start(served, max_tokens=100)
    found = events(served.http.get(job["sse_url"]).text)
    tokens = [e for e in found if e != DONE and e["type"] == "token"]
    end = found[-2]
    ids = [i for t in tokens for i in t["ids"]] + end["ids"]
    request = served.engine.tokenizer.encode("a bee")
    assert len(ids) == 100 == end["tokens_out"]
    text = "".join(t["t"] for t in tokens) + end["text"]
    assert text == bytes(ids).decode(errors="replace")
    assert [t["i"] for t in tokens] == [
        sum(len(u["ids"]) for u in tokens[:k]) for k in range(len(tokens))
    ]
    assert len(request) == 5


def test_end_explains_the_stop(served: Served) -> None:
    end = events(served.http.get(start(served, max_tokens=4)["sse_url"]).text)[-2]
    assert end["stop_reason"] == "MAX_TOKENS"
    assert end["stop"]["at"] == 4
    job = start(served, max_tokens=900)
    end = events(served.http.get(job["sse_url"]).text)[-2]
    assert end["stop_reason"] == "EOS"
    assert end["stop"]["token_text"] == "<|im_end|>"
    assert end["stop"]["origin"] == "config.json"


def test_stop_strings_match_and_are_reported(served: Served) -> None:
    job = start(served, max_tokens=900, stop=["gamma"])
    found = events(served.http.get(job["sse_url"]).text)
    assert found[-2]["stop_sequence_matched"] == "gamma"
    assert "gamma" not in "".join(e["t"] for e in found[:-1] if e["type"] == "token")


def test_a_stream_can_be_opened_before_during_and_after() -> None:
    with Served(Fake(delay_s=0.2, token_s=0.005)) as served:
        job = start(served, max_tokens=40)
        before = served.http.get(job["sse_url"]).text  # no token exists yet
        other = start(served, max_tokens=40)
        wait_for(lambda: served.http.get(f"/v1/jobs/{other['job_id']}").json()["tokens_out"] > 5)
        during = served.http.get(other["sse_url"]).text
        for url, text in ((job["sse_url"], before), (other["sse_url"], during)):
            assert served.http.get(url).text == text  # after
            assert text.endswith("data: [DONE]\n\n")


def test_closing_a_job_stream_does_not_cancel_it() -> None:
    with Served(Fake(token_s=0.005)) as served:
        job = start(served, max_tokens=60)
        with served.http.stream("GET", job["sse_url"]) as stream:
            next(stream.iter_raw())
        wait_for(lambda: served.http.get(f"/v1/jobs/{job['job_id']}").json()["state"] == "done")
        assert served.http.get(f"/v1/jobs/{job['job_id']}").json()["tokens_out"] == 60


def test_delete_cancels_and_is_idempotent() -> None:
    with Served(Fake(hold=threading.Event(), hold_at=9)) as served:
        job = start(served, max_tokens=900)
        path = f"/v1/jobs/{job['job_id']}"
        wait_for(lambda: served.http.get(path).json()["state"] == "running")
        assert served.http.delete(path).status_code == 200
        found = events(served.http.get(job["sse_url"]).text)
        assert found[-2]["type"] == "end"
        assert found[-2]["stop_reason"] == "CANCELLED"
        assert 0 < found[-2]["tokens_out"] < 900
        for _ in range(2):
            assert served.http.delete(path).json()["state"] == "cancelled"


def test_a_job_that_fails_ends_with_error_and_says_so_in_its_state() -> None:
    with Served(Fake(fail_at=3)) as served:
        job = start(served, max_tokens=20)
        found = events(served.http.get(job["sse_url"]).text)
        assert found[-2]["type"] == "error"
        assert found[-2]["code"] == "INFERENCE_FAILED"
        assert found[-1] == DONE
        state = served.http.get(f"/v1/jobs/{job['job_id']}").json()
        assert state["state"] == "failed"
        assert state["stop_reason"] == "ERROR"
        assert state["error"]["code"] == "INFERENCE_FAILED"


def test_state_and_list(served: Served) -> None:
    job = start(served, max_tokens=12, stop=None)
    wait_for(lambda: served.http.get(f"/v1/jobs/{job['job_id']}").json()["state"] == "done")
    state = served.http.get(f"/v1/jobs/{job['job_id']}").json()
    assert state["tokens_out"] == 12 == len(state["token_ids"])
    assert state["text"] == bytes(state["token_ids"]).decode(errors="replace")
    assert state["stop_reason"] == "MAX_TOKENS"
    rows = served.http.get("/v1/jobs").json()["jobs"]
    assert rows[0]["job_id"] == job["job_id"]
    assert rows[0]["stop_reason"] == "MAX_TOKENS"


def test_unknown_jobs_are_404(served: Served) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/stream")):
        response = served.http.request(method, f"/v1/jobs/job-none{path}")
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "job_not_found"


def test_operation_status(served: Served) -> None:
    response = served.http.post("/v1/jobs", json={"operation": "status"})
    assert response.json()["status"]["implementation"] == "rbee-worker"
    found = events(served.http.get(response.json()["sse_url"]).text)
    assert [e if e == DONE else e["type"] for e in found] == ["narration", DONE]
    assert "is ready and serves" in found[0]["human"]


def test_other_operations_name_the_supported_ones(served: Served) -> None:
    response = served.http.post("/v1/jobs", json={"operation": "train", "prompt": "x", "top_p": 9})
    assert response.status_code == 400
    errors = {e["field"]: e for e in response.json()["errors"]}
    assert "infer, status" in errors["operation"]["message"]
    assert "top_p" in errors


def test_deprecated_aliases_are_the_same_job(served: Served) -> None:
    response = served.http.post("/v1/inference", json={"prompt": "a bee", "max_tokens": 5})
    assert response.headers["deprecation"] == "true"
    created = response.json()
    assert created["sse_url"] == f"/v1/inference/{created['job_id']}/stream"
    old = served.http.get(created["sse_url"]).text
    assert old == served.http.get(f"/v1/jobs/{created['job_id']}/stream").text
    assert events(old)[-2]["tokens_out"] == 5


def test_infer_blocks_and_answers(served: Served) -> None:
    body = {"prompt": "a bee", "max_tokens": 9, "seed": 3}
    answer = served.http.post("/v1/infer", json=body).json()
    assert answer["tokens_generated"] == 9
    assert answer["seed"] == 3
    assert answer["duration_ms"] > 0
    assert answer["stop"]["rule"] == "MAX_TOKENS"
    assert answer["text"] == bytes(answer["token_ids"]).decode(errors="replace")


def test_echo_puts_the_prompt_first(served: Served) -> None:
    answer = served.http.post("/v1/infer", json={"prompt": "a bee", "max_tokens": 5, "echo": True})
    assert answer.json()["text"].startswith("a bee")
    assert answer.json()["tokens_generated"] == 5
    assert answer.json()["token_ids"][:5] == list(b"a bee")
    assert len(answer.json()["token_ids"]) == 10
    for path, prompt in (("/v1/infer", {"token_ids": list(b"a bee")}),):
        other = served.http.post(path, json={**prompt, "max_tokens": 5, "echo": True}).json()
        assert (other["text"], other["token_ids"]) == (
            answer.json()["text"],
            answer.json()["token_ids"],
        )
    job = start(served, max_tokens=5, echo=True, logprobs=1)
    found = events(served.http.get(job["sse_url"]).text)
    assert found[1] == {"type": "token", "t": "a bee", "i": -5, "ids": list(b"a bee")}
    assert [None if e is None else e["id"] for e in found[3]["logprobs"]] == [None, *b" bee"]


def test_finished_jobs_leave_by_number_and_by_age() -> None:
    with Served(keep_jobs=2) as served:
        ids = []
        for _ in range(4):
            job = start(served, max_tokens=1)
            served.http.get(job["sse_url"])
            ids.append(job["job_id"])
        assert [served.http.get(f"/v1/jobs/{i}").status_code for i in ids] == [404, 404, 200, 200]
    with Served(keep_jobs_s=0) as served:
        job = start(served, max_tokens=1)
        wait_for(lambda: served.http.get(f"/v1/jobs/{job['job_id']}").status_code == 404)


def test_finished_jobs_leave_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one stays, however large it is: its reader may have lost the connection."""
    monkeypatch.setattr(job_store, "MOST_KEPT", 40)
    with Served() as served:
        ids: list[str] = []

        def kept_after(*sizes: int) -> list[bool]:
            for tokens in sizes:
                job = start(served, max_tokens=tokens)
                served.http.get(job["sse_url"])
                ids.append(job["job_id"])
            return [served.http.get(f"/v1/jobs/{i}").status_code == 200 for i in ids]

        assert kept_after(10, 10, 10, 25) == [False, False, True, True]
        assert kept_after(100) == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("ids", "letters"), [(300, 0), (0, 10_800)], ids=["a long prompt", "a long schema"]
)
def test_what_was_asked_counts_for_the_size(
    ids: int, letters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id takes 36 bytes and a letter one of the 300 that a token does: 36 tokens in both."""
    monkeypatch.setattr(job_store, "MOST_KEPT", 100)
    kept = job_store.Jobs(keep_s=3600, keep_n=100)
    constraint = Constraint(kind="regex", text="x" * letters)
    sampling = Resolved(params=SamplingParams(constraint=constraint), origins={})
    for number in range(3):
        asked = Request(
            id=str(number),
            prompt="a bee" * 1000,
            params={"seed": 1},
            template_args={"long": "x" * 1000},
            chat=ChatOptions(tools=({"type": "function"},)),
            constraint=constraint,
        )
        job = jobs.Job(asked)
        kept.add(job, keep=True)
        started = Started(
            job_id=job.id,
            model="m",
            started_at="",
            prompt_tokens=ids,
            seed=0,
            sampling=sampling,
            prompt_ids=(7,) * ids,
        )
        job.log.append(started)
        job.log.close()
        kept.finish(job)
        assert job.request == Request(id=str(number))  # nobody needs the rest
    assert [kept.get(str(number)) is not None for number in range(3)] == [False, True, True]
    assert (kept.finished, kept.finished_bytes) == (2, 2 * 37 * 300)


def test_a_clock_that_jumps_removes_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with Served() as served:
        job = start(served, max_tokens=1)
        served.http.get(job["sse_url"])
        response = served.http.post("/v1/responses", json={"input": "x", "max_output_tokens": 1})
        monkeypatch.setattr("rbee_worker.server.jobs.time.time", lambda: 4e9)
        assert served.http.get(f"/v1/jobs/{job['job_id']}").status_code == 200
        assert served.http.get(f"/v1/responses/{response.json()['id']}").status_code == 200


def test_correlation_id_is_kept_and_given_back(served: Served) -> None:
    response = served.http.post(
        "/v1/jobs", json={"prompt": "x", "max_tokens": 1}, headers={"X-Correlation-ID": "abc-1"}
    )
    assert response.headers["x-correlation-id"] == "abc-1"
    state = served.http.get(f"/v1/jobs/{response.json()['job_id']}").json()
    assert state["correlation_id"] == "abc-1"
    made_up = served.http.get("/health", headers={"X-Correlation-ID": "no\tgood"})
    assert len(made_up.headers["x-correlation-id"]) == 32


def test_request_timeout_ends_with_usage() -> None:
    tokens = 0
    with Served(Fake(token_s=0.1), request_timeout=1) as served:
        while not tokens:  # it may have stood still all the time
            began = time.monotonic()
            answer = served.http.post("/v1/infer", json={"prompt": "x", "max_tokens": 300}).json()
            assert answer["stop_reason"] == "TIMEOUT"
            assert 0.9 < time.monotonic() - began < 15
            tokens = answer["tokens_generated"]
            assert tokens < 300
        shorter = served.http.post("/v1/infer", json={"prompt": "x", "timeout_s": 0.1}).json()
        assert shorter["stop_reason"] == "TIMEOUT"


@pytest.mark.parametrize("chunk", [1, 3])
def test_answers_do_not_depend_on_how_tokens_arrive(chunk: int) -> None:
    with Served(Fake(chunk=chunk)) as served:
        answer = served.http.post("/v1/infer", json={"prompt": "zzz", "max_tokens": 77}).json()
    from rbee_worker.types import Request

    assert answer["token_ids"] == answer_ids(Request(id="", prompt="zzz"))[:77]
