"""Other people's clients, as they come: litellm and the `llm` command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.served import Served
from tests.server.talking import Talking
from tests.server.test_tools import ANSWERS
from tests.tokenizer.tool_templates import QWEN3

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

# The same conversation with a tool, through OpenAI's routes and through Anthropic's.
TOOLS = """
import json, litellm, sys
base, key = sys.argv[1:]
tool = {"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}}
talk = [{"role": "user", "content": "#1 How is it?"}]
for model, url in (("openai/smollm2", base + "/v1"), ("anthropic/smollm2", base)):
    args = dict(model=model, api_base=url, api_key=key, tools=[tool], max_tokens=400)
    said = litellm.completion(messages=talk, **args).choices[0]
    assert said.finish_reason == "tool_calls", said
    assert said.message.reasoning_content == "I should look.", said
    assert said.message.content == "Let me see.", said
    calls = said.message.tool_calls
    assert [c.function.name for c in calls] == ["get_weather", "time"], said
    assert json.loads(calls[0].function.arguments)["days"] == 3
    chunks = list(litellm.completion(messages=talk, stream=True, **args))
    whole = litellm.stream_chunk_builder(chunks).choices[0].message
    assert [c.function.name for c in whole.tool_calls] == ["get_weather", "time"], whole
    assert [json.loads(c.function.arguments) for c in whole.tool_calls] == [
        json.loads(c.function.arguments) for c in calls]
    told = [{"role": "tool", "tool_call_id": c.id, "content": "#3 sunny"} for c in calls]
    last = litellm.completion(messages=[*talk, said.message, *told], **args).choices[0]
    assert (last.message.content or "").strip() == "It is sunny.", last
    print("DONE", model)
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


def test_litellm_with_tools(tmp_path: Path) -> None:
    local = ["-c", "import os; os.environ['LITELLM_LOCAL_MODEL_COST_MAP']='True'\n" + TOOLS]
    marks = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    with Talking(tmp_path / "model", QWEN3, ANSWERS, tokens=marks, by_text=True) as server:
        out = run([sys.executable, *local, server.url, server.token], tmp_path)
    assert out.count("DONE") == 2


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
