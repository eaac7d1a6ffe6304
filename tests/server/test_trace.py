"""Traces: the whole worker's file with a real (tiny) model, and the phases of one job."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rbee_worker.errors import UsageError
from rbee_worker.observe import trace
from rbee_worker.observe.telemetry import Telemetry
from rbee_worker.observe.trace import Tracer
from tests import tiny
from tests.server.fake_engine import Fake
from tests.server.reading import events
from tests.server.served import Served
from tests.server.spawned import Spawned


def test_the_file_shows_every_phase_of_the_worker(tmp_path: Path) -> None:
    model = tiny.write_safetensors(tmp_path / "tiny")
    file = tmp_path / "trace.json"
    with Spawned.daemon(
        *("--local-mode", "--port", "0", "--model-ref", str(model), "--trace", str(file))
    ) as worker:
        worker.ready()
        body = {"prompt": "the bee " * 4, "max_tokens": 12, "ignore_eos": True}
        job = worker.http.post("/v1/jobs", json=body).json()
        worker.http.get(job["sse_url"])
        tokens = worker.http.get(f"/v1/jobs/{job['job_id']}").json()["prompt_tokens"]
        worker.signal()
        assert worker.wait() == 0, worker.errors
    found = json.loads(file.read_text())
    spans = [e for e in found if e["ph"] == "X"]
    names = {e["name"] for e in spans}
    assert {"prefill", "decode", "sampling", "detokenize", "send"} <= names
    steps = [e for e in spans if e["name"] in ("prefill", "decode")]
    assert sum(e["args"]["drawn"] for e in steps) == 12
    assert steps[0]["args"]["prompt_tokens"] == tokens
    for sampling in (e for e in spans if e["name"] == "sampling"):
        inside = [
            s
            for s in steps
            if s["ts"] - 1 <= sampling["ts"]
            and sampling["ts"] + sampling["dur"] <= s["ts"] + s["dur"] + 1
        ]
        assert len(inside) == 1, "sampling lies inside one step"
    assert sum(e["args"]["tokens"] for e in spans if e["name"] == "detokenize") == 12
    phases = [e for e in found if e["ph"] == "b"]
    assert {e["id"] for e in phases} == {job["job_id"]}
    assert [e["name"] for e in phases] == ["job", "prepare", "queue", "prefill", "decode"]
    begin = phases[0]["ts"]
    assert all(begin <= s["ts"] for s in steps), "engine and server share one clock"


def test_a_full_disk_ends_the_trace_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a stream whose events are traced, nor the place that a job takes, nor the worker."""
    monkeypatch.setattr(trace, "FLUSH_BYTES", 64)
    with Served(trace="/dev/full") as served:
        body = {"prompt": "a bee", "max_tokens": 20}
        job = served.http.post("/v1/jobs", json=body).json()
        assert events(served.http.get(job["sse_url"]).text)[-2]["tokens_out"] == 20
        assert served.http.post("/v1/infer", json=body).status_code == 200
        assert 'rbee_token_live{token="default"} 0.0' in served.http.get("/metrics").text
        served.stop()
        assert served.join() == 0


def test_a_trace_that_ends_has_whole_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, write, room = tmp_path / "trace", os.write, [900]

    def limited(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(fd, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", limited)
    monkeypatch.setattr(trace, "FLUSH_BYTES", 64)
    tracer = Tracer(str(file))
    for n in range(20):
        tracer.sent(trace.now_us(), n)
    tracer.close()
    text = file.read_text()
    found = json.loads(text + "]")  # the bracket may be missing
    sent = [e["args"]["events"] for e in found if e["ph"] == "X"]
    assert sent == [*range(len(sent))]
    assert 0 < len(sent) < 20
    assert 750 < len(text) <= 900


def test_a_job_can_ask_for_its_phases() -> None:
    hold = threading.Event()
    with Served(Fake(hold=hold)) as served:
        body = {"prompt": "x", "max_tokens": 20}
        for trace in (False, True):
            hold.clear()  # no token but the first until somebody reads
            job = served.http.post("/v1/jobs", json={**body, "trace": trace}).json()
            with served.http.stream("GET", job["sse_url"]) as response:
                parts = response.iter_text()
                first = next(parts)
                hold.set()
                end = events(first + "".join(parts))[-2]
            assert ("trace" in end) is trace
        rows = {row["phase"]: row for row in end["trace"]}
        assert list(rows) == ["prepare", "queue", "prefill", "decode", "send"]
        assert rows["decode"]["ms"] == pytest.approx(end["decode_time_ms"], abs=0.01)
        assert rows["decode"]["start_ms"] >= rows["prefill"]["start_ms"]
        assert rows["send"]["events"] > 10


def test_spans_for_opentelemetry() -> None:
    exporter = InMemorySpanExporter()
    with Served() as served:
        telemetry = Telemetry("", "w1", "0", exporter)
        served.service.worker.observers.telemetry = telemetry
        body = {"prompt": "a secret", "max_tokens": 7}
        served.http.post("/v1/infer", json=body, headers={"X-Correlation-ID": "c-7"})
        telemetry.close()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"inference", "prepare", "queue", "prefill", "decode"}
    whole = spans["inference"]
    assert whole.attributes["gen_ai.usage.output_tokens"] == 7
    assert whole.attributes["rbee.correlation_id"] == "c-7"
    assert spans["decode"].parent.span_id == whole.context.span_id
    assert whole.start_time <= spans["prepare"].start_time
    assert "secret" not in "".join(span.to_json() for span in spans.values())


def test_a_file_of_a_killed_worker_can_still_be_read(tmp_path: Path) -> None:
    """Viewers accept the array without its end; so does a reader that adds it."""
    file = tmp_path / "trace.json"
    tracer = Tracer(str(file))
    tracer.sent(1.0, 3)
    tracer.flush()
    cut = file.read_text()
    assert json.loads(cut.rstrip().rstrip(",") + "]")[-1]["args"] == {"events": 3}
    tracer.close()
    assert json.loads(file.read_text())[-1]["args"] == {"events": 3}


def test_a_file_that_cannot_be_written_is_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--trace"):
        Tracer(str(tmp_path / "none" / "trace.json"))
