"""What `serve` tells people on stderr, and programs on stdout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import tiny
from tests.server.served import wait_for
from tests.server.spawned import Spawned

pytestmark = pytest.mark.slow


def told(*options: str, env: dict[str, str], until: str) -> tuple[dict[str, object], list[str]]:
    """(the address, lines on stderr) of a worker that has come as far as `until`, and left."""
    backend = {"RBEE_BACKEND": "reference", **env}
    with Spawned.daemon("--port", "0", *options, env=backend) as worker:
        wait_for(lambda: until.encode() in worker.errors)
        worker.signal()
        assert worker.wait() == 0
        return worker.line, worker.errors.decode().splitlines()


def test_where_the_page_is_what_loads_and_when_it_is_ready(tmp_path: Path) -> None:
    model = str(tiny.write_safetensors(tmp_path / "tiny"))
    line, said = told("--local-mode", "--model", model, env={}, until="tokens of context")
    assert said[0].endswith(f": the page is at {line['url']}/")
    assert said[1] == f"Loading {model}; Ctrl-C ends the worker."
    assert said[-1].startswith("Ready after ")
    assert "(llama, " in said[-1]
    assert said[-1].endswith(f"on cpu, {tiny.CONTEXT} tokens of context.")


def test_the_token_is_named_and_never_shown(tmp_path: Path) -> None:
    model = str(tiny.write_safetensors(tmp_path / "tiny"))
    token = "a-token-of-24-characters"
    env = {"RBEE_API_TOKEN": token}
    _, said = told("--host", "127.0.0.1", "--model", model, env=env, until="tokens of context")
    assert said[0].endswith("/ It asks for the token.")
    assert token not in "".join(said)


def test_with_a_log_for_programs_stderr_is_json_only(tmp_path: Path) -> None:
    model = str(tiny.write_safetensors(tmp_path / "tiny"))
    options = ("--local-mode", "--model", model, "--log-format", "json", "--log-level", "info")
    _, said = told(*options, env={}, until="ready")
    assert said
    for line in said:
        json.loads(line)
