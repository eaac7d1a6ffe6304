"""A worker's life: starting, loading, serving, draining, leaving; seen from outside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import msgspec
import pytest

from benchmarks.server_start import bare_s, ours_s
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Loading
from rbee_worker.errors import DeviceLost, ModelError
from rbee_worker.server.health import progress
from rbee_worker.server.run import serve
from rbee_worker.server.tokens import Tokens
from rbee_worker.server.worker import Worker
from tests.patience import LIMIT_S
from tests.server.fake_engine import Fake
from tests.server.reading import DONE, events
from tests.server.served import Served, wait_for
from tests.server.spawned import ROOT, Spawned

START_OVER_BARE = 1.75  # the contract's 0.7 s where a bare server takes 0.4 s


@pytest.mark.slow  # alone on the machine: nothing else may take the time of one of the two
def test_it_answers_hardly_later_than_a_bare_server_on_the_same_libraries() -> None:
    """The real command line, every public path. Noise only ever adds: the soonest of each."""
    paths = ["/health", "/v1/ready", "/v1/loading/progress"]
    bare: list[float] = []
    ours: dict[str, list[float]] = {path: [] for path in paths}
    bare_s(), ours_s()  # the first start compiles modules and reads files from disk
    while len(bare) < 8:
        bare.append(bare_s())
        for path in paths:
            ours[path].append(ours_s(path))
        if max(min(walls) for walls in ours.values()) <= START_OVER_BARE * min(bare):
            break
    print(bare, ours)  # noqa: T201
    assert max(min(walls) for walls in ours.values()) <= START_OVER_BARE * min(bare)


def test_what_answers_first_is_not_what_takes_long_to_import() -> None:
    """All that is imported before the socket listens: no arrays, vocabularies, or metrics yet."""
    code = (
        "import sys, rbee_worker.cli.main, rbee_worker.cli.app, rbee_worker.server.run\n"
        "heavy = {'numpy', 'tokenizers', 'prometheus_client', 'jinja2', 'httpx', 'llvmlite', "
        "'huggingface_hub'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_server_never_imports_torch() -> None:
    """Importing all that the server and its client side of the engine import."""
    code = (
        "import sys, rbee_worker.server.run, rbee_worker.server.openapi, rbee_worker.client, "
        "rbee_worker.server.reference, rbee_worker.observe.metrics, rbee_worker.observe.heartbeat, "
        "rbee_worker.observe.trace, rbee_worker.session.client, rbee_worker.cli.main, "
        "rbee_worker.checkpoint, rbee_worker.tokenizer.load, rbee_worker.tokenizer.eos, "
        "rbee_worker.tokenizer.stream, rbee_worker.session.text, rbee_worker.params\n"
        "heavy = {'torch', 'numba', 'transformers', 'fastapi'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_address_is_the_first_line_on_stdout() -> None:
    with Spawned.fake({"worker_id": "w9"}) as worker:
        assert worker.line["worker_id"] == "w9"
        assert worker.line["host"] == "127.0.0.1"
        assert worker.line["url"] == f"http://127.0.0.1:{worker.line['port']}"
        assert worker.http.get("/health").json() == {"status": "healthy"}
        worker.signal(signal.SIGHUP)  # there is nothing to read again
        assert worker.http.get("/health").status_code == 200


def test_loading_is_told_step_by_step_and_late_subscribers_get_the_last_state() -> None:
    go = threading.Event()
    server = Served(Fake(load_s=0.6, layers=6, load_hold=go))
    server.start()
    try:
        ready = server.http.get("/v1/ready")
        assert ready.status_code == 503
        assert ready.json()["state"] == "loading"
        assert int(ready.headers["retry-after"]) >= 1
        early = server.http.post("/v1/jobs", json={"prompt": "x"})
        assert early.status_code == 503
        assert early.json()["error"]["code"] == "not_ready"
        assert server.http.get("/info").json()["status"] == "starting"
        assert server.http.get("/v1/models").status_code == 200
        with server.http.stream("GET", "/v1/loading/progress") as progress:
            go.set()
            found = events(progress.read().decode())
        steps = [e for e in found[:-2] if e["stage"] == "loading_to_vram"]
        assert len(steps) >= 4
        assert [s["layers_loaded"] for s in steps] == sorted(s["layers_loaded"] for s in steps)
        assert all(s["layers_total"] == 6 for s in steps)
        assert steps[-1]["vram_mb"] == steps[-1]["bytes_loaded"] >> 20 == 6
        assert found[-2:] == [{"stage": "ready"}, DONE]
        assert events(server.http.get("/v1/loading/progress").text) == [{"stage": "ready"}, DONE]
        ready = server.http.get("/v1/ready")
        assert ready.status_code == 200
        assert ready.json()["load_s"] == {"total": 0.6}
    finally:
        server.__exit__()


def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    from rbee_worker.server import health, sse

    monkeypatch.setattr(sse, "BEAT_S", 0.1)
    monkeypatch.setattr(health, "BEAT_S", 0.1)
    loads, answers = threading.Event(), threading.Event()
    server = Served(Fake(layers=1, load_hold=loads, hold=answers))
    server.start()

    def silent(url: str, go: threading.Event) -> None:
        """Read a stream that goes on once it has two comments."""
        text = ""
        with server.http.stream("GET", url) as stream:
            for part in stream.iter_text():
                text += part
                if text.count(": still here\n\n") >= 2:
                    go.set()
        assert go.is_set()

    try:
        silent("/v1/loading/progress", loads)
        job = server.http.post("/v1/jobs", json={"prompt": "x", "max_tokens": 2}).json()
        silent(job["sse_url"], answers)
    finally:
        server.__exit__()


def run_jobs(worker: Spawned, n: int, tokens: int) -> list[Any]:
    with ThreadPoolExecutor(n) as pool:
        body = {"prompt": "x", "max_tokens": tokens}
        jobs = [pool.submit(worker.http.post, "/v1/infer", json=body) for _ in range(n)]
        return [job.result() for job in jobs]


def test_sigterm_lets_running_jobs_finish_and_refuses_new_ones(tmp_path: Path) -> None:
    hold = tmp_path / "hold"  # answers go on once it is gone
    hold.touch()
    with Spawned.fake({"max_seqs": 4}, {"hold": str(hold), "hold_at": 9, "slots": 4}) as worker:
        worker.ready()
        answers: list[Any] = []
        load = threading.Thread(target=lambda: answers.extend(run_jobs(worker, 8, 60)))
        load.start()
        job = worker.http.post("/v1/jobs", json={"prompt": "y", "max_tokens": 60}).json()
        assert "sse_url" in job, job
        chunks: list[bytes] = []

        def follow() -> None:
            at = worker.line["url"] + job["sse_url"]
            with httpx.stream("GET", at, timeout=LIMIT_S) as stream:
                for chunk in stream.iter_raw():
                    chunks.append(chunk)

        follower = threading.Thread(target=follow)
        follower.start()
        url = worker.line["url"]
        wait_for(lambda: httpx.get(url + "/v1/stats").json()["jobs"] == 9)
        wait_for(lambda: bool(chunks))
        worker.signal()
        wait_for(lambda: httpx.get(url + "/v1/ready").json().get("state") == "draining")
        refused = httpx.post(url + "/v1/jobs", json={"prompt": "late"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert httpx.get(url + "/info").json()["status"] == "stopped"
        hold.unlink()
        assert worker.wait() == 0
        load.join()
        follower.join()
    assert [a.json()["tokens_generated"] for a in answers] == [60] * 8
    assert events(b"".join(chunks).decode())[-2]["tokens_out"] == 60


def test_drain_ends_after_its_time_and_cut_jobs_say_so() -> None:
    with Spawned.fake({"drain_timeout": 1}, {"token_s": 0.5}) as worker:
        worker.ready()
        job = worker.http.post("/v1/jobs", json={"prompt": "y", "max_tokens": 300}).json()
        began = time.monotonic()
        with httpx.stream("GET", worker.line["url"] + job["sse_url"], timeout=LIMIT_S) as stream:
            worker.signal()
            text = stream.read().decode()
        assert worker.wait() == 0
        assert 0.9 < time.monotonic() - began < 15
    assert events(text)[-2]["stop_reason"] == "CANCELLED"
    assert events(text)[-1] == DONE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_stops_at_once(number: int) -> None:
    with Spawned.fake({"drain_timeout": 60}, {"token_s": 0.1}) as worker:
        worker.ready()
        worker.http.post("/v1/jobs", json={"prompt": "y", "max_tokens": 600})
        began = time.monotonic()
        worker.signal(number)
        time.sleep(0.2)
        worker.signal(number)
        assert worker.wait() == 0
        assert time.monotonic() - began < 15


def test_signals_sent_as_soon_as_the_address_is_known_are_heard() -> None:
    """A hang-up tells a service to read its files again, and must not end it; then it drains."""
    for numbers in ([signal.SIGHUP, signal.SIGTERM], [signal.SIGHUP, signal.SIGINT]):
        with Spawned.fake({}, {"load_s": 30, "signals": numbers}) as worker:
            assert worker.wait(LIMIT_S) == 0
            assert b"nothing to read again" in worker.errors


def test_a_hangup_of_a_worker_that_reads_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on, as a service that is reloaded; or drains, where its terminal was closed."""
    monkeypatch.setattr(os, "isatty", lambda _: False)
    with Served() as served:
        served.loop.call_soon_threadsafe(served.service.hang_up)
        assert served.http.get("/v1/ready").status_code == 200
        assert not served.service._told_to_stop.is_set()
        monkeypatch.setattr(os, "isatty", lambda _: True)
        served.loop.call_soon_threadsafe(served.service.hang_up)
        assert served.join() == 0


def test_an_idle_worker_leaves_at_once_also_while_loading() -> None:
    for fake in ({}, {"load_s": 30}):
        with Spawned.fake({}, fake) as worker:
            if not fake:
                worker.ready()
            began = time.monotonic()
            worker.signal()
            assert worker.wait() == 0
            assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        ("unsupported", 3, b"rwkv7 is not supported. Fix: serve a llama."),
        ("device", 4, b"fell off"),
    ],
)
def test_a_model_that_cannot_be_loaded(error: str, code: int, words: bytes) -> None:
    with Spawned.fake({}, {"load_error": error, "load_s": 0.3}) as worker:
        found = events(worker.http.get("/v1/loading/progress").text)
        assert found[-2]["stage"] == "failed"
        assert words.decode()[:8] in found[-2]["reason"]
        ready = worker.http.get("/v1/ready")
        assert ready.status_code == 503
        assert ready.json()["state"] == "failed"
        assert worker.wait() == code
        assert words in worker.errors
        assert b"Traceback" not in worker.errors


def test_leaving_needs_no_thread(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where memory is so short that no thread can be had, the one line is of what was short."""
    monkeypatch.setattr("rbee_worker.server.run.FAILURE_SHOWN_S", 0)
    whole = asyncio.Runner.close

    def close(runner: asyncio.Runner) -> None:
        whole(runner)
        raise RuntimeError("can't start new thread")

    async def start(settings: Settings, **_: Any) -> Any:
        raise ModelError("there is not enough memory to begin.")

    monkeypatch.setattr(asyncio.Runner, "close", close)
    settings = Settings(local_mode=True, port=0)
    assert serve(settings, Tokens(settings, ""), start) == 3
    assert "error: there is not enough memory to begin. Fix: " in capfd.readouterr().err


def test_a_device_lost_in_service_exits_4() -> None:
    with Served() as server:

        async def lose() -> None:
            server.engine.break_down(DeviceLost("the GPU fell off the bus."))

        server.call(lose())
        assert server.join() == 4


def test_bad_usage_exits_2_with_one_line() -> None:
    token = {"RBEE_API_TOKEN": "t" * 16}
    for args, env, words in (
        (["--port", "0"], {}, b"needs a token"),
        (["--local-mode"], token, b"--local-mode"),
        (["--local-mode", "--port", "70000"], {}, b"--port"),
        (["--local-mode", "--max-queue", "many"], {}, b"--max-queue"),
        (["--local-mode", "--nonsense"], {}, b"--nonsense"),
    ):
        with Spawned.daemon(*args, env=env) as worker:
            assert worker.wait() == 2, args
            assert words in worker.errors
            assert b"Fix:" in worker.errors
            assert len(worker.errors.strip().splitlines()) == 1


def test_a_taken_port_exits_2() -> None:
    with (
        Spawned.fake({}) as first,
        Spawned.daemon("--local-mode", "--port", str(first.line["port"])) as second,
    ):
        assert second.wait() == 2
        assert b"Cannot listen on 127.0.0.1" in second.errors


def test_orchestrator_flags_and_environment() -> None:
    """The spelling that orchestrators use, the model missing: it must come as far as loading."""
    token = "orchestrator-token"
    with Spawned.daemon(
        *("--worker-id", "worker-7", "--model-ref", "/nowhere/model.gguf", "--port", "0"),
        *("--hive-url", "http://127.0.0.1:9", "--backend", "cpu", "--device", "0"),
        env={"LLORCH_API_TOKEN": token, "RBEE_HOST": "127.0.0.1"},
    ) as worker:
        assert worker.line["worker_id"] == "worker-7"
        head = {"Authorization": f"Bearer {token}"}
        assert worker.http.get("/v1/models").status_code == 401
        models = worker.http.get("/v1/models", headers=head).json()["data"]
        assert models[0]["id"] == "/nowhere/model.gguf"
        assert worker.wait() == 3
        assert b"/nowhere/model.gguf" in worker.errors
        assert b"Traceback" not in worker.errors


def test_queue_limits_are_kept_and_retry_after_is_given() -> None:
    hold = threading.Event()
    with Served(Fake(hold=hold, slots=2), max_queue=3) as server:
        answers = [
            server.http.post("/v1/jobs", json={"prompt": "x", "max_tokens": 1}) for _ in range(8)
        ]
        assert [a.status_code for a in answers] == [200] * 5 + [429] * 3
        assert int(answers[-1].headers["retry-after"]) >= 1
        hold.set()
        told = server.http.get(answers[4].json()["sse_url"]).text
        assert "Queued behind" in told
        # several answers at once are admitted together or not at all
        wait_for(lambda: server.engine.held == 0)
        hold.clear()
        many = server.http.post("/v1/completions", json={"prompt": "x", "n": 6, "max_tokens": 1})
        assert many.status_code == 429
        wait_for(lambda: server.engine.held == 0)


def test_heartbeats_reach_the_hive() -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    beats: list[dict[str, Any]] = []

    class Hive(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            beats.append({"path": self.path, **json.loads(body)})
            self.send_response(503 if len(beats) == 1 else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    hive = HTTPServer(("127.0.0.1", 0), Hive)
    thread = threading.Thread(target=hive.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{hive.server_port}/"
        with Served(hive_url=url, heartbeat_s=1) as server:
            wait_for(lambda: len(beats) >= 3)
            assert server.http.get("/health").status_code == 200
    finally:
        hive.shutdown()
        hive.server_close()
        thread.join()
    assert {b["path"] for b in beats} == {"/v1/worker-heartbeat"}
    worker = beats[-1]["worker"]
    assert worker.keys() == {
        "id", "model_id", "device", "port", "status", "implementation", "version"
    }  # fmt: skip
    assert worker["id"] == "w1"
    assert worker["status"] == "ready"
    assert beats[-1]["timestamp"].startswith("20")


def test_progress_names_the_kernel_that_was_compiled() -> None:
    message = Loading(stage="compiling", item="attend.f16", layers_loaded=7, layers_total=17)
    worker = SimpleNamespace(state="loading", loading=message)
    found = msgspec.to_builtins(progress(cast(Worker, worker)))
    assert found["stage"] == "compiling"
    assert (found["item"], found["layers_loaded"], found["layers_total"]) == ("attend.f16", 7, 17)
    worker.loading = Loading(stage="opening")
    assert "item" not in msgspec.to_builtins(progress(cast(Worker, worker)))
