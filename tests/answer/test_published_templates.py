"""Chat templates as their authors publish them (those that llama.cpp's sources carry): how each
writes an assistant's calls is how the model writes them, and the reader finds the same calls again.

Slow: the sources (77 MB) come through pip.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.answer import Reader, call_ids, find_format, tool_table
from rbee_worker.answer_parts import Part
from rbee_worker.errors import WorkerError
from rbee_worker.tokenizer.chat import ChatRenderer
from tests.answer.test_reader import cuts, joined, told
from tests.llamacpp.source import Unavailable, unpacked

pytestmark = pytest.mark.slow

FOLDER = "models/templates/"
TEXT = {"type": "string"}
NESTED = {"city": 'Köln "x"\n🌦', "days": 3, "more": {"a": [1, {"b": "}]</x>"}], "on": True}}
CALLS: tuple[tuple[str, Any], ...] = (("get_weather", NESTED), ("now", {}))
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city"},
                    "days": {"type": "integer", "description": "How many"},
                    "more": {"type": "object", "description": "Any", "additionalProperties": TEXT},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "now",
            "description": "The time",
            "parameters": {"type": "object", "properties": {}},
        },
    },
]
FORMS = {  # template -> the format
    "Apriel-1.6-15b-Thinker-fixed": "jamba",
    "Bielik-11B-v3.0-Instruct": "hermes",
    "ByteDance-Seed-OSS": "seed-oss",
    "Cohere2MoE": "command-a",
    "CohereForAI-c4ai-command-r-plus-tool_use": "command-r",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command-a",
    "GLM-4.6": "glm4.5",
    "GLM-4.7-Flash": "glm4.5",
    "LFM2.5-8B-A1B": "lfm2",
    "MiMo-VL": "hermes",
    "MiniMax-M1": "jamba",
    "MiniMax-M2": "minimax-m2",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral-args",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "qwen-xml",
    "NVIDIA-Nemotron-Nano-v2": "nemotron",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "hermes",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "hermes",
    "Qwen-QwQ-32B": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "Qwen3-Coder": "qwen-xml",
    "Qwen3.5-4B": "qwen-xml",
    "Reka-Edge": "hermes",
    "Spark2.5": "glm4.5",
    "StepFun3.5-Flash": "qwen-xml",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "deepseek-v3",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek-v3",
    "deepseek-ai-DeepSeek-V3.1": "deepseek-v3.1",
    "deepseek-ai-DeepSeek-V3.2": "deepseek-v3.2",
    "deepseek-ai-DeepSeek-V4": "deepseek-v3.2",
    "deepseek-ai-DeepSeek-V4-Flash-0731": "deepseek-v3.2",
    "google-gemma-4-31B-it": "gemma4",
    "google-gemma-4-31B-it-interleaved": "gemma4",
    "ibm-granite-granite-4.0": "hermes",
    "ibm-granite-granite-4.1": "hermes",
    "inclusionai-ling-3.0-flash": "glm4.5",
    "meetkai-functionary-medium-v3.1": "functionary",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3",
    "meta-llama-Llama-3.2-3B-Instruct": "llama3",
    "meta-llama-Llama-3.3-70B-Instruct": "llama3",
    "mistralai-Ministral-3-14B-Reasoning-2512": "mistral-args",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
    "moonshotai-Kimi-K2": "kimi-k2",
    "openai-gpt-oss-120b": "harmony",
    "poolside-Laguna-S-2.1": "glm4.5",
    "poolside-Laguna-XS-2.1": "glm4.5",
    "poolside-Laguna-XS.2": "glm4.5",
    "unsloth-Apriel-1.5": "jamba",
    "unsloth-mistral-Devstral-Small-2507": "mistral-args",
}
# Templates that take one call in a message.
ONE = ("meta-llama-", "openai-gpt-oss")
# No format is known: `tools` are refused in one line (docs/tools.md).
UNKNOWN = (
    *("Apertus-8B-Instruct", "GigaChat3-10B-A1.8B", "GigaChat3.1-10B-A1.8B", "Kimi-K3"),
    *("MiniMax-M3", "fireworks-ai-llama-3-firefunction-v2", "meetkai-functionary-medium-v3.2"),
    *("muse-glimmer", "openbmb-MiniCPM5-1B", "tencent-Hy3", "upstage-Solar-Open-100B"),
)
# Not read back: the template writes no calls; the marks are in the vocabulary, or there are none.
SILENT = (
    *("HuggingFaceTB-SmolLM3-3B", "LFM2-8B-A1B", "LFM2.5-Instruct", "google-gemma-2-2b-it"),
    *("llama-cpp-rwkv-world", "microsoft-Phi-3.5-mini-instruct"),
    "ibm-granite-granite-3.3-2B-Instruct",
)
# Not rendered: what they do is refused by the sandbox (as transformers' does), or they are made for
# llama.cpp's own renderer.
BROKEN = ("Kimi-K2-Instruct", "Kimi-K2-Thinking", "llama-cpp-deepseek-r1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    try:
        yield unpacked(tmp_path_factory.mktemp("templates"), (FOLDER,)) / FOLDER
    except Unavailable as reason:
        pytest.skip(str(reason))


def asked(calls: Sequence[tuple[str, Any]], ids: Any) -> list[dict[str, Any]]:
    """A question, and a message that has only calls."""
    made = [
        {
            "id": ids(n, name),
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(value, ensure_ascii=False)},
        }
        for n, (name, value) in enumerate(calls)
    ]
    question = {"role": "user", "content": "Hi"}
    return [question, {"role": "assistant", "content": "", "tool_calls": made}]


def answer(renderer: ChatRenderer, messages: list[dict[str, Any]]) -> tuple[str, str]:
    """(what stands before the answer, the answer as the template writes it)"""
    whole = renderer.render(messages, add_generation_prompt=False, tools=TOOLS)
    opened = renderer.render(messages[:1], add_generation_prompt=True, tools=TOOLS)
    if whole.startswith(opened):
        return opened, whole[len(opened) :]
    closed = renderer.render(messages[:1], add_generation_prompt=False, tools=TOOLS)
    if whole.startswith(closed):
        return "", whole[len(closed) :]
    last = opened[-len("<|CHATBOT_TOKEN|>") :]  # Command-R: instructions follow the last message
    _, found, said = whole.rpartition(last)
    assert found
    return "", said.partition("<|START_OF_TURN_TOKEN|>")[0]


@pytest.mark.parametrize("name", FORMS)
def test_calls_are_read_as_the_template_writes_them(folder: Path, name: str) -> None:
    template = (folder / f"{name}.jinja").read_text()
    form = find_format([template], lambda text: False)
    assert form.tools is not None
    assert form.tools.name == FORMS[name]
    renderer = ChatRenderer(template, bos_token="<s>", eos_token="</s>")
    calls = CALLS[:1] if name.startswith(ONE) else CALLS
    before, text = answer(renderer, asked(calls, call_ids(form.tools.ids, "x")))

    def read(pieces: list[tuple[str, bool]]) -> list[Part]:
        ids = call_ids("call", "x")
        reader = Reader(form, tool_table(TOOLS), ids, place=form.place(before))
        parts = [part for piece, _ in pieces for part in reader.push(piece)]
        return joined([*parts, *reader.flush()])

    whole = read([(text, False)])
    found = [(name, json.loads(arguments)) for name, arguments in told(whole)[2]]
    assert found == list(calls), text
    for at in range(1, len(text)):
        assert read([(text[:at], False), (text[at:], False)]) == whole, at
    for seed in range(10):
        assert read(cuts([(text, False)], seed)) == whole


def test_every_template_is_accounted_for(folder: Path) -> None:
    known = {*FORMS, *UNKNOWN, *SILENT, *BROKEN, "Qwen-Qwen2.5-7B-Instruct"}
    assert {file.stem for file in folder.glob("*.jinja")} == known
    for name in UNKNOWN:
        assert find_format([(folder / f"{name}.jinja").read_text()], lambda t: False).tools is None
    for name in BROKEN:
        renderer = ChatRenderer((folder / f"{name}.jinja").read_text())
        with pytest.raises(WorkerError):
            renderer.render(asked(CALLS, call_ids("counted", "x")), tools=TOOLS)
