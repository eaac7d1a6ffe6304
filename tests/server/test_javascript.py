"""OpenAI's official JavaScript client, in a loop of turns. Needs node and npm's registry."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.npm import installed
from tests.server.served import Served

pytestmark = pytest.mark.slow

PACKAGE = "openai@6.49.0"
SCRIPT = Path(__file__).with_name("conversation.mjs")


@pytest.fixture(scope="module")
def package() -> Path:
    """The client's module; the test says why where it cannot be had."""
    return installed(PACKAGE) / "index.mjs"


def test_turns_of_the_official_client(package: Path) -> None:
    with Served() as served:
        command = ["node", str(SCRIPT), str(package), served.url + "/v1", served.token]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
    assert told["turns"] == 7
    assert told["whole"] == told["streamed"] == told["final"]
    assert told["after"] > told["before"]
    assert told["usage"]["completion_tokens"] == 6
    assert told["refusal"] == {"name": "BadRequestError", "status": 400, "param": "temperature"}
    assert told["models"] == ["smollm2"]
