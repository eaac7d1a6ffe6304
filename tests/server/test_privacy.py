"""Prompt and answer text stays between the caller and the engine: no log line, no error has it."""

from __future__ import annotations

import io

import pytest

from rbee_worker.observe import log
from tests.server.fake_engine import Fake
from tests.server.served import Served, wait_for

SECRET = "xylophone-quartz"
ANSWER = "vexing-marimba "


@pytest.mark.parametrize("fail", [None, 4])
def test_no_log_line_and_no_error_repeats_a_prompt_or_an_answer(fail: int | None) -> None:
    lines = io.StringIO()
    log.setup("debug", "json", lines)
    refusals: list[str] = []
    script = list((ANSWER * 9).encode())
    try:
        with Served(Fake(fail_at=fail, script=lambda request: script)) as served:
            post = served.http.post
            talk = [{"role": "user", "content": SECRET}]
            for body in (
                {"prompt": SECRET, "max_tokens": 50, "stop": [SECRET]},
                {"messages": talk, "max_tokens": 50, "echo": True},
            ):
                post("/v1/infer", json=body)
                job = post("/v1/jobs", json=body).json()
                served.http.get(job["sse_url"])
                served.http.delete(f"/v1/jobs/{job['job_id']}")
            post("/v1/completions", json={"prompt": [SECRET] * 2, "stream": True})
            post("/v1/chat/completions", json={"messages": talk})
            post("/tokenize", json={"text": SECRET})
            for path, bad in (
                ("/v1/infer", {"prompt": SECRET, "temperature": 9}),
                ("/v1/infer", {"prompt": [SECRET]}),
                ("/v1/infer", {"prompt": {"text": SECRET}}),
                ("/v1/infer", {"messages": [{"role": SECRET, "content": SECRET}]}),
                ("/v1/infer", {"messages": [{"role": "user", "content": [SECRET]}]}),
                ("/v1/infer", {"messages": SECRET}),
                ("/v1/infer", {"propmt": SECRET}),
                ("/v1/infer", {"prompt": SECRET * 9000}),
                ("/v1/infer", {"prompt": SECRET, "token_ids": [SECRET]}),
                ("/v1/infer", {"prompt": SECRET, "model": SECRET}),
                ("/v1/completions", {"prompt": [SECRET, 1]}),
                ("/v1/completions", {"prompt": SECRET, "suffix": SECRET}),
                ("/v1/embeddings", {"input": SECRET, "dimensions": 9999}),
                ("/v1/embeddings", {"input": [SECRET, 1]}),
                ("/v1/embeddings", {"input": SECRET, "prompt_name": 7}),
                ("/v1/score", {"text_1": [SECRET, SECRET], "text_2": [SECRET] * 3}),
                ("/v1/rerank", {"query": SECRET, "documents": [SECRET, [SECRET]]}),
                ("/v1/classify", {"input": SECRET}),
                ("/tokenize", {"text": [SECRET]}),
                ("/apply-template", {"messages": [{"role": "user", "content": {"a": SECRET}}]}),
            ):
                response = post(path, json=bad)
                assert response.status_code in (400, 404), (path, bad)
                refusals.append(response.text)
            broken = post("/v1/infer", content=b'{"prompt": "' + SECRET.encode())
            refusals.append(broken.text)
            wait_for(lambda: served.engine.held == 0)
    finally:
        log.setup("warning", "text")
    text = lines.getvalue()
    assert text.count("\n") > 20
    assert '"path": "/v1/infer"' in text
    for secret in (SECRET, ANSWER.strip()):
        assert secret not in text
        assert not any(secret in refusal for refusal in refusals)


def test_a_defect_in_a_route_is_told_without_its_words() -> None:
    """An exception whose message holds the prompt: neither the answer nor the log repeats it."""
    lines = io.StringIO()
    log.setup("debug", "text", lines)

    def script(request: object) -> list[int]:
        raise RuntimeError(f"cannot answer {SECRET}")

    try:
        with Served(Fake(script=script)) as served:
            response = served.http.post("/v1/infer", json={"prompt": SECRET})
            assert response.status_code == 500
            assert SECRET not in response.text

            def tokenize(text: str, **_: object) -> list[int]:
                raise RuntimeError(text)

            served.engine.tokenizer.encode = tokenize  # type: ignore[method-assign]
            response = served.http.post("/tokenize", json={"text": SECRET})
            assert response.status_code == 500
            assert response.json()["error"]["code"] == "internal_error"
            assert SECRET not in response.text
    finally:
        log.setup("warning", "text")
    assert "RuntimeError" in lines.getvalue()
    assert SECRET not in lines.getvalue()
