"""Other people's clients, as they come: litellm and the `llm` command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.served import Served

pytestmark = pytest.mark.slow

LITELLM = """
import litellm, sys
base, key = sys.argv[1:]
talk = [{"role": "user", "content": "hello"}]
args = dict(model="openai/smollm2", api_base=base, api_key=key, messages=talk, max_tokens=20)
whole = litellm.completion(**args, seed=1)
text = whole.choices[0].message.content
assert whole.usage.completion_tokens == 20, whole
chunks = list(litellm.completion(**args, seed=1, stream=True))
assert "".join(c.choices[0].delta.content or "" for c in chunks) == text
try:
    litellm.completion(**args, temperature=9)
except litellm.BadRequestError as error:
    assert "temperature" in str(error)
else:
    raise SystemExit("no error")
plain = litellm.text_completion(
    model="text-completion-openai/smollm2", api_base=base, api_key=key, prompt="x", max_tokens=5
)
assert plain.usage.completion_tokens == 5
print("TEXT", repr(text))
"""

MODELS = """
- model_id: bee
  model_name: smollm2
  api_base: {base}
  api_key_name: bee
"""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served() as server:
        yield server


def run(command: list[str], home: Path) -> str:
    env = {**os.environ, "HOME": str(home), "LLM_USER_PATH": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=env, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_litellm(served: Served, tmp_path: Path) -> None:
    local = ["-c", "import os; os.environ['LITELLM_LOCAL_MODEL_COST_MAP']='True'\n" + LITELLM]
    out = run([sys.executable, *local, served.url + "/v1", served.token], tmp_path)
    assert "TEXT" in out


def test_llm_command(served: Served, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(base=served.url + "/v1"))
    (tmp_path / "keys.json").write_text(f'{{"bee": "{served.token}"}}')
    command = [
        sys.executable,
        "-m",
        "llm",
        "prompt",
        "-m",
        "bee",
        "hello",
        "-o",
        "max_tokens",
        "20",
    ]
    streamed = run(command, tmp_path)
    whole = run([*command, "--no-stream"], tmp_path)
    assert streamed == whole
    assert len(streamed.strip()) > 10
