"""schemathesis against the worker's own description: no 500, no status, type or body that the
description does not have, in both security modes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.fake_engine import Fake
from tests.server.served import TOKEN, Served, wait_for

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


def run(served: Served, folder: Path, *, examples: int, phases: str) -> str:
    """The report; the run must find nothing."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json"),
        *("--checks", ",".join(CHECKS), "--phases", phases),
        *("--max-examples", str(examples), "--seed", "7", "--workers", "1"),
        *("--request-timeout", "20", "--suppress-health-check", "all"),
        *("--exclude-path", "/v1/loading/progress"),
    ]
    if served.token:
        command += ["-H", f"Authorization: Bearer {TOKEN}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def short() -> Fake:
    return Fake(script=lambda request: list(b"short"), context=256)


@pytest.mark.parametrize("token", [TOKEN, ""])
def test_examples(tmp_path: Path, token: str) -> None:
    with Served(short(), token=token) as served:
        run(served, tmp_path, examples=1, phases="examples")


@pytest.mark.long
@pytest.mark.parametrize("token", [TOKEN, ""])
def test_boundaries_and_random_requests(tmp_path: Path, token: str) -> None:
    with Served(short(), token=token) as served:
        out = run(served, tmp_path, examples=40, phases="examples,coverage,fuzzing")
        assert int(re.findall(r"(\d+) generated", out)[-1]) > 2000
        assert served.http.post("/v1/infer", json={"prompt": "still here"}).status_code == 200
        wait_for(lambda: served.engine.held == 0)
