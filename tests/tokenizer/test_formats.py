"""Each family's chat format rendered as transformers renders it, and the ids that end its turns."""

from __future__ import annotations

import itertools
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from rbee_worker.errors import InvalidRequest
from rbee_worker.models import ARCHITECTURES
from rbee_worker.tokenizer.chat import ChatRenderer
from rbee_worker.tokenizer.eos import eos_set
from rbee_worker.tokenizer.load import load_tokenizer
from tests.tokenizer.builders import Source, train_byte_level
from tests.tokenizer.formats import FORMATS, Format
from tests.tokenizer.published import PUBLISHED

_CALL = {"function": {"name": "add", "arguments": {"b": "é<", "a": 1}}}


def _turns(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one question": _turns("  What's <b>2 + 2</b>?\n"),
    "turns": _turns("Hi — 你好 😀", "<think>\nhm\n</think>\n\nHello!", 'Say "x"\n\n'),
    "system": [{"role": "system", "content": " Be brief.\n"}, *_turns("a", "b", "c")],
    "answered": _turns("x", "y", "z\r\n\n", ""),
    "special words": _turns("<|im_end|></s>[/INST]{{ 7 * 7 }}", "{% raw %}", "<eos>"),
    "tool": [
        *_turns("What is 1 + é?"),
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
        {"role": "tool", "content": "4"},
    ],
}
WITH_TEMPLATE = [name for name, f in FORMATS.items() if f.template is not None]


@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_a_format_is_rendered_as_transformers_does(name: str) -> None:
    """Six conversations, with the answer's head and without; what a template refuses is refused in
    the same words."""
    template = FORMATS[name].template
    assert template is not None
    hf = _hf(template)
    rendered = 0
    with ChatRenderer(template, bos_token="<s>", eos_token="</s>") as ours:
        for messages in CONVERSATIONS.values():
            for head in (True, False):
                want = _theirs(hf, messages, head)
                if isinstance(want, str):
                    assert ours.render(messages, add_generation_prompt=head) == want
                    rendered += 1
                    continue
                with pytest.raises(InvalidRequest) as caught:
                    ours.render(messages, add_generation_prompt=head)
                assert str(caught.value) == f"messages: {want}"
    assert rendered >= 8


@pytest.mark.parametrize(
    ("name", "switch"),
    [
        ("harmony", {"reasoning_effort": "high"}),
        ("gemma4", {"enable_thinking": True}),
        ("qwen3", {"enable_thinking": False}),
    ],
)
def test_a_switch_of_a_format_is_heeded_as_transformers_does(
    name: str, switch: dict[str, Any]
) -> None:
    template = FORMATS[name].template
    assert template is not None
    hf, messages = _hf(template), CONVERSATIONS["system"]
    want = hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **switch)
    with ChatRenderer(template, bos_token="<s>", eos_token="</s>") as ours:
        assert ours.render(messages, add_generation_prompt=True, **switch) == want
        assert ours.render(messages, add_generation_prompt=True) != want


def _hf(template: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Backend(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>")),
        bos_token="<s>",
        eos_token="</s>",
        chat_template=template,
    )


def _theirs(
    hf: PreTrainedTokenizerFast, messages: list[dict[str, Any]], head: bool
) -> str | Exception:
    try:
        return str(hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=head))
    except TemplateError as e:
        return e


_HEAD = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: TODAY\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
    "<|end|>"
)
# Written out: a template and its oracle can be wrong together, these cannot.
EXACT = {
    "llama2": "<s>[INST] <<SYS>>\n Be brief.\n\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST]",
    "mistral v3": "<s>[INST] a[/INST] b</s>[INST]  Be brief.\n\n\nc[/INST]",
    "zephyr": "<|system|>\n Be brief.\n</s>\n<|user|>\na</s>\n<|assistant|>\nb</s>\n"
    "<|user|>\nc</s>\n<|assistant|>",
    "granite": "<|start_of_role|>system<|end_of_role|> Be brief.\n<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|>a<|end_of_text|>\n"
    "<|start_of_role|>assistant<|end_of_role|>b<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|>c<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    "command-r": "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>a<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>b<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>c<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "glm4": "[gMASK]<sop><|system|>\n Be brief.\n<|user|>\na<|assistant|>\nb"
    "<|user|>\nc<|assistant|>",
    "seed-oss": "<seed:bos>system\n Be brief.\n<seed:eos><seed:bos>user\na<seed:eos>"
    "<seed:bos>assistant\nb<seed:eos><seed:bos>user\nc<seed:eos><seed:bos>assistant\n",
    "hunyuan": "<｜hy_begin▁of▁sentence｜> Be brief.\n<｜hy_place▁holder▁no▁3｜><｜hy_User｜>a"
    "<｜hy_Assistant｜>b<｜hy_place▁holder▁no▁2｜><｜hy_User｜>c<｜hy_Assistant｜>",
    "falcon": "System: Be brief.\nUser: a\nAssistant: b\nUser: c\n\nAssistant:",
    "phi4": "<|im_start|>system<|im_sep|> Be brief.\n<|im_end|>"
    "<|im_start|>user<|im_sep|>a<|im_end|>"
    "<|im_start|>assistant<|im_sep|>b<|im_end|><|im_start|>user<|im_sep|>c<|im_end|>"
    "<|im_start|>assistant<|im_sep|>",
    "tulu": "<s><|system|>\n Be brief.\n\n<|user|>\na\n<|assistant|>\nb</s>\n"
    "<|user|>\nc\n<|assistant|>\n",
    "harmony": _HEAD + "<|start|>developer<|message|># Instructions\n\n Be brief.\n<|end|>"
    "<|start|>user<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|end|>"
    "<|start|>user<|message|>c<|end|><|start|>assistant",
    "gemma4": "<s><|turn>system\nBe brief.<turn|>\n<|turn>user\na<turn|>\n<|turn>model\nb<turn|>\n"
    "<|turn>user\nc<turn|>\n<|turn>model\n",
}  # fmt: skip
# A call, and what the tool said.
CALLED = {
    "harmony": _HEAD + "<|start|>user<|message|>What is 1 + é?<|end|>"
    "<|start|>assistant to=functions.add<|channel|>commentary json<|message|>"
    '{"b": "é<", "a": 1}<|call|>'
    '<|start|>functions.add to=assistant<|channel|>commentary<|message|>"4"<|end|>'
    "<|start|>assistant",
    "gemma4": "<s><|turn>user\nWhat is 1 + é?<turn|>\n<|turn>model\n"
    '<|tool_call>call:add{a:1,b:<|"|>é<<|"|>}<tool_call|>'
    '<|tool_response>response:add{value:<|"|>4<|"|>}<tool_response|>',
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "conversation", "want"),
    [(n, "system", w) for n, w in EXACT.items()] + [(n, "tool", w) for n, w in CALLED.items()],
)
def test_a_format_letter_by_letter(name: str, conversation: str, want: str) -> None:
    template = FORMATS[name].template
    assert template is not None
    with ChatRenderer(template, bos_token="<s>", eos_token="</s>") as ours:
        before = f"{datetime.now():%Y-%m-%d}"
        found = ours.render(CONVERSATIONS[conversation], add_generation_prompt=True)
        after = f"{datetime.now():%Y-%m-%d}"
    assert found in (want.replace("TODAY", before), want.replace("TODAY", after))


def test_every_family_has_a_format() -> None:
    spoken = {t for f in FORMATS.values() for t in f.types}
    missing = sorted(set(ARCHITECTURES) - spoken)
    assert not missing, (
        "tests/tokenizer/formats.py: add each of these to `types` of the Format in FORMATS that "
        f"its models speak, or a new Format with its template and end tokens: {missing}"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_what_ends_a_turn(name: str, tmp_path: Path) -> None:
    """The union of config.json, generation_config.json and the vocabulary, and nothing more."""
    form = FORMATS[name]
    path, ids = _tokenizer(form, tmp_path)
    source = Source(
        files={"tokenizer.json": path},
        config={"eos_token_id": [ids[t] for t in form.config]},
        generation={"eos_token_id": [ids[t] for t in form.generation]},
    )
    found = eos_set(source, load_tokenizer(source))
    assert {e.text for e in found} == set(form.ends)
    assert {e.id for e in found} == {ids[t] for t in form.ends}
    for end in found:
        assert ("config.json" in end.origins) == (end.text in form.config)
        assert ("generation_config.json" in end.origins) == (end.text in form.generation)


def _tokenizer(form: Format, folder: Path) -> tuple[Path, dict[str, int]]:
    """A tokenizer.json whose only special tokens are the format's, and their ids."""
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    made = train_byte_level(*PUBLISHED["llama-bpe"])
    vocabulary = made["model"]["vocab"]
    made["added_tokens"] = [t for t in made["added_tokens"] if t["content"] == "<think>"]
    free = itertools.count(701)
    ids = {t: vocabulary[t] if t in vocabulary else next(free) for t in form.special}
    made["added_tokens"] += [
        {"id": i, "content": text, "special": True, **off} for text, i in ids.items()
    ]
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(made), encoding="utf-8")
    return path, ids
