"""Several tokens with names: who is let in, what each may do, and what is counted and noted."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.server import reloading
from rbee_worker.server.audit import Audit
from rbee_worker.server.limits import Call, Holder, Limits
from rbee_worker.server.problems import Refusal
from rbee_worker.server.tokens import Tokens
from tests.patience import LIMIT_S
from tests.server.fake_engine import Fake
from tests.server.reading import DONE, events
from tests.server.served import Served, wait_for

ANNA, BERT = "annas-token-of-some-length", "berts-token-of-some-length"
JOB = {"prompt": "a bee", "max_tokens": 4}


def written(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def two(path: Path, anna: str = "", bert: str = "") -> str:
    """Anna's token is plain, Bert's is not; and further lines of each."""
    text = f'[anna]\ntoken = "{ANNA}"\n{anna}\n[bert]\nsha256 = "{hashed(BERT)}"\n{bert}\n'
    return written(path, text)


def http_of(served: Served, token: str) -> httpx.Client:
    client = httpx.Client(
        base_url=served.url, headers={"Authorization": f"Bearer {token}"}, timeout=LIMIT_S
    )
    served.others.append(client)
    return client


def metrics(served: Served) -> dict[str, float]:
    text = served.http.get("/metrics").text
    rows = re.findall(r"^(rbee_(?:token|unauthorized)\S*) (\S+)$", text, re.M)
    return {name: float(value) for name, value in rows}


def test_each_token_opens_and_others_do_not(tmp_path: Path) -> None:
    with Served(tokens_file=two(tmp_path / "t")) as served:
        for token, status in ((ANNA, 200), (BERT, 200), (hashed(BERT), 401), ("x", 401)):
            assert http_of(served, token).get("/info").status_code == status
        with httpx.Client(base_url=served.url, headers={"X-API-Key": BERT}) as client:
            assert client.get("/info").status_code == 200
        assert metrics(served)["rbee_unauthorized_total"] == 2


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("", 0o600, "it names no token"),
        ("what is this", 0o600, "it is no TOML"),
        ('[a]\ntoken = "short"', 0o600, "the token of a has 5 characters"),
        (f'[a]\ntoken = " {ANNA}"', 0o600, "no header can carry.*without spaces around"),
        ("[a]\nconcurrency = 3", 0o600, r"\[a\] needs either token or sha256"),
        ('[a]\nsha256 = "ABC"', 0o600, "64 hexadecimal digits"),
        (f'[a]\ntoken = "{ANNA}"\nsha256 = "{hashed(BERT)}"', 0o600, "needs either"),
        (f'[a]\ntoken = "{ANNA}"\ncolor = 3', 0o600, "unknown field `color`"),
        (f'[a]\ntoken = "{ANNA}"\nconcurrency = "3"', 0o600, r"\[a\]: a value is not"),
        (f'[a]\ntoken = "{ANNA}"\nconcurrency = -3', 0o600, "a limit is below 0"),
        (f'["a b"]\ntoken = "{ANNA}"', 0o600, "names have 1 to 64"),
        (f'[default]\ntoken = "{ANNA}"', 0o600, "is the name of RBEE_API_TOKEN's holder"),
        (f'[a]\ntoken = "{ANNA}"\n[b]\nsha256 = "{hashed(ANNA)}"', 0o600, "the same token"),
        (f'[a]\ntoken = "{ANNA}"', 0o640, r"others can read it \(mode 0640\)"),
        (None, 0, "No such file"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    tmp_path: Path, text: str | None, mode: int, words: str
) -> None:
    path = tmp_path / "t"
    if text is not None:
        written(path, text, mode)
    with pytest.raises(UsageError, match=words) as caught:
        Tokens(Settings(tokens_file=str(path)), "the-token-of-the-environment")
    assert ANNA not in str(caught.value)
    assert "\n" not in caught.value.line


def test_hashes_may_be_read_by_others(tmp_path: Path) -> None:
    path = written(tmp_path / "t", f'[a]\nsha256 = "{hashed(ANNA)}"', 0o644)
    found = Tokens(Settings(tokens_file=path)).find(ANNA.encode())
    assert found is not None
    assert found.name == "a"


def test_a_holder_sees_and_cancels_his_own_jobs_only(tmp_path: Path) -> None:
    with Served(tokens_file=two(tmp_path / "t"), journal=str(tmp_path / "j")) as served:
        anna, bert = http_of(served, ANNA), http_of(served, BERT)
        key = {"Idempotency-Key": "same"}
        mine = anna.post("/v1/jobs", json=JOB, headers=key).json()
        theirs = bert.post("/v1/jobs", json={**JOB, "seed": 3}, headers=key).json()
        assert mine["job_id"] != theirs["job_id"]
        assert [j["job_id"] for j in bert.get("/v1/jobs").json()["jobs"]] == [theirs["job_id"]]
        for path in (f"/v1/jobs/{mine['job_id']}", mine["sse_url"]):
            assert anna.get(path).status_code == 200
            assert bert.get(path).status_code == 404
        assert bert.delete(f"/v1/jobs/{mine['job_id']}").status_code == 404
        asked = {"model": "smollm2", "input": "a bee", "max_output_tokens": 20}
        path = f"/v1/responses/{anna.post('/v1/responses', json=asked).json()['id']}"
        assert anna.get(path).status_code == 200
        for method, url in (("GET", path), ("DELETE", path), ("GET", f"{path}/input_items")):
            assert bert.request(method, url).status_code == 404
        later = {**asked, "previous_response_id": path.rpartition("/")[2]}
        assert bert.post("/v1/responses", json=later).status_code == 404
        assert anna.post("/v1/responses", json=later).status_code == 200
    with Served(tokens_file=two(tmp_path / "t"), journal=str(tmp_path / "j")) as served:
        anna, bert = http_of(served, ANNA), http_of(served, BERT)
        assert anna.post("/v1/jobs", json=JOB, headers=key).json() == mine
        assert bert.get(mine["sse_url"]).status_code == 404


def test_a_limit_on_requests_at_a_time(tmp_path: Path) -> None:
    """Of each token for itself: a job counts until it has ended, an answer with n choices once."""
    hold = threading.Event()
    fake, file = Fake(hold=hold), two(tmp_path / "t", anna="concurrency = 2")
    with Served(fake, tokens_file=file) as served:
        anna, bert = http_of(served, ANNA), http_of(served, BERT)
        first = anna.post("/v1/jobs", json=JOB).json()
        body = {"model": "smollm2", "prompt": "x", "n": 3, "max_tokens": 4, "stream": True}
        with anna.stream("POST", "/v1/completions", json=body) as stream:
            assert stream.status_code == 200
            for path, other in (
                ("/v1/jobs", JOB),
                ("/v1/infer", JOB),
                ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
                ("/v1/embeddings", {"input": "x"}),
            ):
                refused = anna.post(path, json=other)
                assert refused.status_code == 429, path
                assert refused.headers["retry-after"] == "1"
                error = refused.json()["error"]
                assert error["code"] == "token_concurrency"
                assert error["message"] == (
                    "The token anna has 2 requests running, which is its limit. Fix: try again in "
                    "1 s."
                )
            assert anna.post("/tokenize", json={"text": "x"}).status_code == 200
            assert bert.post("/v1/jobs", json=JOB).status_code == 200
            assert metrics(served)['rbee_token_live{token="anna"}'] == 2
            hold.set()
            stream.read()
        assert events(anna.get(first["sse_url"]).text)[-1] == DONE
        wait_for(lambda: metrics(served)['rbee_token_live{token="anna"}'] == 0)
        assert anna.post("/v1/infer", json=JOB).status_code == 200
        found = metrics(served)
        assert found['rbee_token_requests_total{token="anna"}'] == 3
        assert found['rbee_token_refused_total{limit="concurrency",token="anna"}'] == 4
        assert found['rbee_token_output_tokens_total{token="anna"}'] == 4 * 5
        assert found['rbee_token_prompt_tokens_total{token="anna"}'] == 5 + 3 + 5


def test_many_texts_of_one_request_are_one_place(tmp_path: Path) -> None:
    with Served(tokens_file=two(tmp_path / "t", anna="concurrency = 1"), max_queue=2) as served:
        anna = http_of(served, ANNA)
        found = anna.post("/v1/embeddings", json={"input": ["x"] * 50})
        assert found.status_code == 200, found.text
        assert metrics(served)['rbee_token_live{token="anna"}'] == 0


def test_a_limit_on_tokens_a_minute(tmp_path: Path) -> None:
    with Served(tokens_file=two(tmp_path / "t", anna="tokens_per_minute = 30")) as served:
        anna = http_of(served, ANNA)
        assert anna.post("/v1/infer", json={**JOB, "max_tokens": 40}).status_code == 200
        refused = anna.post("/v1/infer", json=JOB)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "token_rate"
        assert 25 <= int(refused.headers["retry-after"]) <= 31  # 45 used: 15 too many
        assert http_of(served, BERT).post("/v1/infer", json=JOB).status_code == 200


def test_used_tokens_count_for_a_minute() -> None:
    now = 100.0
    holder = Holder("a", Limits(tokens_per_minute=60), clock=lambda: now)
    for spent, wait in ((59, 0), (1, 1), (29, 29)):
        holder.used(prompt=spent)
        if wait:
            with pytest.raises(Refusal) as caught:
                holder.enter()
            assert caught.value.headers["Retry-After"] == str(wait)
            now += wait
        Call(holder).enter()
    assert holder.refused == {"concurrency": 0, "tokens_per_minute": 2}
    assert holder.requests == 3


def test_a_limit_that_is_set_later_counts_from_then_on() -> None:
    now = 100.0
    holder = Holder("a", clock=lambda: now)
    holder.used(prompt=10**6)
    holder.limits = Limits(tokens_per_minute=60)
    Call(holder).enter()
    holder.used(output=60)
    with pytest.raises(Refusal):
        holder.enter()


def test_the_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it changes: new names, new limits, and who is gone is out. A bad one changes nothing."""
    monkeypatch.setattr(reloading, "EVERY_S", 0.02)
    path = tmp_path / "t"
    with Served(Fake(token_s=0.01), tokens_file=two(path)) as served:
        anna, bert = http_of(served, ANNA), http_of(served, BERT)
        job = anna.post("/v1/jobs", json={**JOB, "max_tokens": 200}).json()
        bert.post("/v1/infer", json=JOB)
        written(path, f'[carl]\ntoken = "{ANNA}"\n[bert]\ntoken = "{BERT}"\nconcurrency = 9\n')
        wait_for(lambda: anna.get(job["sse_url"]).status_code == 404)  # Carl is not Anna
        assert metrics(served).keys() >= {'rbee_token_live{token="carl"}'}
        assert metrics(served)['rbee_token_requests_total{token="bert"}'] == 1
        assert 'rbee_token_live{token="anna"}' not in metrics(served)
        written(path, "nonsense")
        time.sleep(0.1)
        assert bert.get("/info").status_code == 200
        os.replace(two(tmp_path / "new"), path)
        wait_for(lambda: anna.get(f"/v1/jobs/{job['job_id']}").status_code == 200)


def test_a_file_that_gets_the_right_mode_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text and its time of change stay what they were when it was refused."""
    monkeypatch.setattr(reloading, "EVERY_S", 0.02)
    path = tmp_path / "t"
    with Served(tokens_file=two(path)) as served:
        anna = http_of(served, ANNA)
        written(tmp_path / "new", f'[carl]\ntoken = "{ANNA}"\n', 0o644)
        os.replace(tmp_path / "new", path)
        time.sleep(0.1)
        assert "anna" in served.http.get("/metrics").text
        path.chmod(0o600)
        wait_for(lambda: 'token="carl"' in served.http.get("/metrics").text)
        assert anna.get("/info").status_code == 200


def test_who_comes_back_has_the_requests_that_still_run(tmp_path: Path) -> None:
    """A file that is written in two pieces is read without some of its names."""
    path = Path(two(tmp_path / "t", anna="concurrency = 1"))
    tokens = Tokens(Settings(tokens_file=str(path)))
    anna = tokens.find(ANNA.encode())
    assert anna is not None
    call = Call(anna)
    call.enter()
    call.begun(5)
    whole = path.read_text()
    for text in (f'[carl]\ntoken = "{ANNA}-of-carl"\n', whole):
        written(path, text)
        tokens.reload()
    assert tokens.find(ANNA.encode()) is anna
    with pytest.raises(Refusal, match="1 requests running"):
        Call(anna).enter()
    call.ended()
    call.close()
    assert (anna.live, anna.prompt_tokens) == (0, 5)


def test_the_audit_log_has_names_and_no_text(tmp_path: Path) -> None:
    secret = "xylophone"
    path = tmp_path / "audit"
    with Served(tokens_file=two(tmp_path / "t"), audit_log=str(path)) as served:
        anna = http_of(served, ANNA)
        job = anna.post(
            "/v1/jobs", json={**JOB, "prompt": secret}, headers={"X-Correlation-ID": "c-1"}
        ).json()
        anna.get(job["sse_url"])
        http_of(served, "nobodys-token").post("/v1/infer", json={"prompt": secret})
        served.service.reloading.all()
        path.rename(tmp_path / "old")
        served.service.reloading.all()
        anna.get("/info")
    texts = [file.read_text() for file in (tmp_path / "old", path)]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    told = [(x["event"], x["token"], x.get("status")) for x in lines if "token" in x]
    assert ("request", "anna", 200) in told
    assert ("request", "", 401) in told
    (ended,) = [x for x in lines if x["event"] == "job"]
    assert ended["job_id"] == job["job_id"]
    assert (ended["token"], ended["stop"], ended["correlation_id"]) == ("anna", "MAX_TOKENS", "c-1")
    assert (ended["prompt_tokens"], ended["output_tokens"]) == (len(secret), 4)
    assert {"event": "tokens", "names": ["default", "anna", "bert"]} in [
        {k: x.get(k) for k in ("event", "names")} for x in lines
    ]
    assert "/info" in path.read_text()
    for file in (path, tmp_path / "old"):
        assert secret not in file.read_text()
        assert ANNA not in file.read_text()
        assert file.stat().st_mode & 0o777 == 0o600


def test_an_audit_log_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--audit-log"):
        Audit(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="nobody reads this pipe"):
        Audit(str(tmp_path / "pipe"))


def test_lines_that_a_full_disk_has_lost_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no half of one stays in the file."""
    path, write, full = tmp_path / "audit", os.write, threading.Event()
    audit = Audit(str(path))

    def limited(file: int, data: bytes) -> int:
        if file != audit._file or not full.is_set():
            return write(file, data)
        if len(data) > 20:
            return write(file, data[: len(data) - 20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", limited)
    audit.note("first")
    wait_for(lambda: path.stat().st_size > 0)
    full.set()
    for event in ("second", "third"):
        audit.note(event)
    wait_for(lambda: audit._unwritten == 2)
    full.clear()
    audit.note("fourth")
    audit.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line.get("lines")) for line in lines] == [
        ("first", None), ("dropped", 2), ("fourth", None),
    ]  # fmt: skip


def test_a_file_that_cannot_be_opened_anew_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    audit = Audit(str(folder / "audit"))
    folder.rename(tmp_path / "old")
    audit.reload()
    audit.note("first")
    wait_for(lambda: "first" in (tmp_path / "old" / "audit").read_text())
    folder.mkdir()
    audit.note("second")
    audit.close()
    assert "second" in (folder / "audit").read_text()


def test_local_mode_takes_no_tokens(tmp_path: Path) -> None:
    from rbee_worker.server.tokens import read_tokens

    settings: Any = Settings(local_mode=True, tokens_file=two(tmp_path / "t"))
    with pytest.raises(UsageError, match="--tokens-file is given"):
        read_tokens(settings, {})
