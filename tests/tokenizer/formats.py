"""Every chat format of the families: a template, the tokens it is made of, and what ends a turn.

All templates are written here, to the formats that the models' authors publish; none is copied.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.tokenizer.world import TEMPLATE as WORLD
from tests.tokenizer import channels, templates

_EACH = "{% for m in messages %}"
_END = "{% endfor %}"
_ASK = "{% if add_generation_prompt %}"
_FI = "{% endif %}"

LLAMA4 = (
    "{{ bos_token }}" + _EACH + "{{ '<|header_start|>' + m['role'] + '<|header_end|>\\n\\n' }}"
    "{{ m['content'] | trim + '<|eot|>' }}" + _END + _ASK
    + "{{ '<|header_start|>assistant<|header_end|>\\n\\n' }}" + _FI
)  # fmt: skip

DOTS1 = (
    _EACH + "{% if m['role'] == 'user' %}{% set who = 'userprompt' %}"
    "{% elif m['role'] == 'assistant' %}{% set who = 'response' %}"
    "{% else %}{% set who = m['role'] %}{% endif %}"
    "{{ '<|' + who + '|>' + m['content'] + '<|endof' + who + '|>' }}" + _END
    + _ASK + "{{ '<|response|>' }}" + _FI
)  # fmt: skip

EXAONE4 = (
    _EACH + "{{ '[|' + m['role'] + '|]\\n' + m['content'].strip() + '[|endofturn|]\\n' }}" + _END
    + _ASK + "{{ '[|assistant|]\\n' }}" + _FI
)  # fmt: skip

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set head = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set head = '' %}{% set turns = messages %}"
    "{% endif %}"
    "{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user, assistant, user, ...') }}{% endif %}"
    "{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (head if loop.first else '') + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}" + _END
)

# No spaces beside the marks since v3; a system message stands before the last question.
MISTRAL_V3 = """{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for m in turns %}
    {%- if m["role"] == "user" %}
        {%- if loop.last and system is defined %}
            {{- "[INST] " + system + "\\n\\n" + m["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + m["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif m["role"] == "assistant" %}
        {%- if m.tool_calls is defined %}
            {{- "[TOOL_CALLS] [" }}
            {%- for call in m.tool_calls %}
                {{- call.function | tojson }}{{ "]" if loop.last else ", " }}
            {%- endfor %}
            {{- eos_token }}
        {%- else %}
            {{- " " + m["content"] | trim + eos_token }}
        {%- endif %}
    {%- elif m["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + m["content"] | tojson + "}[/TOOL_RESULTS]" }}
    {%- else %}
        {{- raise_exception("Only user, assistant and tool roles are supported") }}
    {%- endif %}
{%- endfor %}
"""

ZEPHYR = (
    _EACH + "{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}" + _END + _ASK
    + "{{ '<|assistant|>' }}" + _FI
)  # fmt: skip

STABLELM2 = templates.CHATML

GRANITE = """{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = "Knowledge Cutoff Date: April 2024.\\nYou are Granite, developed by IBM." %}
    {%- set turns = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\\n' }}
{%- for m in turns %}
    {%- if m['role'] == 'tool' %}
        {{- '<|start_of_role|>tool_response<|end_of_role|>' + m['content'] + '<|end_of_text|>\\n' }}
    {%- else %}
        {{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] }}
        {{- '<|end_of_text|>\\n' }}
    {%- endif %}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}"""

COMMAND_R = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{% set who = '<|USER_TOKEN|>' %}"
    "{% elif m['role'] == 'assistant' %}{% set who = '<|CHATBOT_TOKEN|>' %}"
    "{% elif m['role'] == 'system' %}{% set who = '<|SYSTEM_TOKEN|>' %}"
    "{% else %}{{ raise_exception('Unknown role ' ~ m['role']) }}{% endif %}"
    "{{ '<|START_OF_TURN_TOKEN|>' + who + m['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}" + _END
    + _ASK + "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}" + _FI
)  # fmt: skip

GLM4 = (
    "[gMASK]<sop>" + _EACH + "{% if m['role'] == 'tool' %}{% set who = 'observation' %}{% else %}"
    "{% set who = m['role'] %}{% endif %}{{ '<|' ~ who ~ '|>\n' ~ m['content'] }}" + _END + _ASK
    + "{{ '<|assistant|>' }}" + _FI
)  # fmt: skip

FALCON = (
    _EACH + "{% if not loop.first %}{{ '\n' }}{% endif %}{{ m['role'] | capitalize + ': ' }}"
    "{{ m['content'].strip().replace('\r\n', '\n').replace('\n\n', '\n') }}" + _END + _ASK
    + "{{ '\n\nAssistant:' }}" + _FI
)  # fmt: skip

PHI4 = (
    _EACH + "{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}" + _END
    + _ASK + "{{ '<|im_start|>assistant<|im_sep|>' }}" + _FI
)  # fmt: skip

TULU = (
    "{{ bos_token }}" + _EACH + "{% if m['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' + m['content'] }}"
    "{% if not loop.last %}{{ eos_token + '\n' }}{% else %}{{ eos_token }}{% endif %}{% else %}"
    "{{ '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}" + _END
)


@dataclass(frozen=True)
class Format:
    """template: None where the models have none. special: tokens of the vocabulary that matter
    here; config: those that config.json names; generation: those of generation_config.json. ends:
    what must end a sequence. types: `model_type`s whose instruct models speak it."""

    template: str | None
    special: tuple[str, ...]
    ends: tuple[str, ...]
    types: tuple[str, ...]
    config: tuple[str, ...] = ()
    generation: tuple[str, ...] = ()


_IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_TEXT = ("<|endoftext|>",)

FORMATS: dict[str, Format] = {
    "chatml": Format(
        templates.CHATML,
        _IM,
        ("<|im_end|>", "<|endoftext|>"),
        ("qwen2", "qwen2_moe", "olmo3", "arcee"),
        config=("<|endoftext|>",),
        generation=("<|im_end|>", "<|endoftext|>"),
    ),
    "qwen3": Format(
        templates.THINKING,
        _IM,
        ("<|im_end|>", "<|endoftext|>"),
        ("qwen3", "qwen3_moe", "qwen3_next", "smollm3"),
        config=("<|im_end|>",),
    ),
    "llama2": Format(LLAMA2, ("<s>", "</s>"), ("</s>",), ("llama",), config=("</s>",)),
    "llama3": Format(
        templates.LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        ("llama",),
        config=("<|end_of_text|>",),
        generation=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "mistral": Format(
        templates.MISTRAL, ("<s>", "</s>"), ("</s>",), ("mistral", "mixtral"), config=("</s>",)
    ),
    "mistral v3": Format(
        MISTRAL_V3,
        ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
        ("</s>",),
        ("mistral",),
        config=("</s>",),
    ),
    "gemma": Format(
        templates.GEMMA,
        ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        ("<eos>", "<end_of_turn>"),
        ("gemma", "gemma2", "gemma3_text", "recurrent_gemma"),
        config=("<eos>",),
        generation=("<eos>", "<end_of_turn>"),
    ),
    "phi3": Format(
        templates.PHI3,
        ("<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>"),
        ("<|endoftext|>", "<|end|>", "<|assistant|>"),
        ("phi3", "phimoe"),
        config=("<|endoftext|>",),
        generation=("<|endoftext|>", "<|assistant|>", "<|end|>"),
    ),
    "phi4": Format(
        PHI4, (*_IM, "<|im_sep|>"), ("<|im_end|>", "<|endoftext|>"), ("phi3",),
        config=("<|endoftext|>",), generation=("<|endoftext|>", "<|im_end|>"),
    ),
    "zephyr": Format(
        ZEPHYR, ("<|endoftext|>", "<|user|>", "<|assistant|>"), ("<|endoftext|>",), ("stablelm",),
        config=("<|endoftext|>",),
    ),
    "stablelm2": Format(
        STABLELM2, _IM, ("<|im_end|>", "<|endoftext|>"), ("stablelm",), config=("<|im_end|>",)
    ),
    "granite": Format(
        GRANITE,
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        ("<|end_of_text|>",),
        ("granite", "granitemoe", "granitemoeshared", "granitemoehybrid"),
        config=("<|end_of_text|>",),
    ),
    "command-r": Format(
        COMMAND_R,
        ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"),
        ("<|END_OF_TURN_TOKEN|>",),
        ("cohere",),
        config=("<|END_OF_TURN_TOKEN|>",),
    ),
    "glm4": Format(
        GLM4,
        ("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|observation|>", "<|assistant|>"),
        ("<|endoftext|>", "<|user|>", "<|observation|>"),
        ("glm", "glm4", "glm4_moe"),
        config=("<|endoftext|>", "<|user|>", "<|observation|>"),
    ),
    "deepseek": Format(
        templates.DEEPSEEK,
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        ("<｜end▁of▁sentence｜>",),
        ("llama", "qwen2", "deepseek_v2", "deepseek_v3"),
        config=("<｜end▁of▁sentence｜>",),
    ),
    "llama4": Format(
        LLAMA4,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|eot|>", "<|header_start|>", "<|header_end|>"),
        ("<|end_of_text|>", "<|eot|>"),
        ("llama4_text",),
        config=("<|end_of_text|>", "<|eot|>"),
    ),
    "dots1": Format(
        DOTS1,
        tuple(
            f"<|{part}{who}|>"
            for part in ("", "endof")
            for who in ("system", "userprompt", "response")
        ),
        ("<|endofresponse|>",),
        ("dots1",),
        config=("<|endofresponse|>",),
    ),
    "exaone4": Format(
        EXAONE4,
        ("[|system|]", "[|user|]", "[|assistant|]", "[|tool|]", "[|endofturn|]"),
        ("[|endofturn|]",),
        ("exaone4",),
        config=("[|endofturn|]",),
    ),
    "seed-oss": Format(
        templates.SEED_OSS, ("<seed:bos>", "<seed:eos>"), ("<seed:eos>",), ("seed_oss",),
        config=("<seed:eos>",), generation=("<seed:eos>",),
    ),
    "lfm2": Format(
        templates.CHATML,
        ("<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        ("<|im_end|>", "<|endoftext|>"),
        ("lfm2", "lfm2_moe"),
        config=("<|im_end|>",),
    ),
    "falcon-h1": Format(
        templates.CHATML,
        ("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|end_of_text|>"),
        ("<|im_end|>", "<|end_of_text|>"),
        ("falcon_h1",),
        config=("<|end_of_text|>",),
    ),
    "hunyuan": Format(
        templates.HUNYUAN,
        (
            "<｜hy_begin▁of▁sentence｜>", "<｜hy_User｜>", "<｜hy_Assistant｜>",
            *(f"<｜hy_place▁holder▁no▁{n}｜>" for n in (2, 3, 8)),
        ),
        ("<｜hy_place▁holder▁no▁2｜>",),
        ("hunyuan_v1_dense",),
        config=("<｜hy_place▁holder▁no▁2｜>",),
    ),
    "falcon": Format(FALCON, _TEXT, _TEXT, ("falcon",), config=_TEXT),
    "tulu": Format(
        TULU, ("<|endoftext|>", "<|user|>", "<|assistant|>"), ("<|endoftext|>",),
        ("olmo", "olmo2", "olmoe"), config=("<|endoftext|>",),
    ),
    # Base models: nothing to render, but an end of text.
    "none, <|endoftext|>": Format(
        None,
        _TEXT,
        _TEXT,
        (
            *("phi", "starcoder2", "gpt_bigcode", "mpt", "mamba", "falcon_mamba", "mamba2"),
            *("jamba", "based"),
        ),
        config=_TEXT,
    ),
    # No file has a template: turns are ended by a stop string (tests/tokenizer/test_world.py).
    "rwkv": Format(WORLD, _TEXT, _TEXT, ("rwkv5", "rwkv6", "rwkv7"), config=_TEXT),
    # <|end|> closes one message of several; the third end is not in config.json.
    "harmony": Format(
        channels.HARMONY,
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>", *_TEXT),
        ("<|return|>", "<|call|>", "<|endoftext|>"),
        ("gpt_oss",),
        config=("<|return|>",),
        generation=("<|return|>", "<|endoftext|>", "<|call|>"),
    ),
    "gemma4": Format(
        channels.GEMMA4,
        ("<eos>", "<bos>", "</s>", "<|turn>", "<turn|>", "<|tool_call>", "<|tool_response>"),
        ("<eos>", "<turn|>", "<|tool_response>"),
        ("gemma4_text",),
        config=("<eos>", "<turn|>"),
        generation=("<eos>", "<turn|>", "<|tool_response>"),
    ),
    "none, </s>": Format(
        None, ("<s>", "</s>"), ("</s>",), ("helium", "nemotron", "nemotron_h"), config=("</s>",)
    ),
    "none, <|end_of_text|>": Format(
        None,
        ("<|begin_of_text|>", "<|end_of_text|>"),
        ("<|end_of_text|>",),
        ("bamba",),
        config=("<|end_of_text|>",),
    ),
    "none, |ENDOFTEXT|": Format(
        None, ("|ENDOFTEXT|",), ("|ENDOFTEXT|",), ("persimmon",), config=("|ENDOFTEXT|",)
    ),
}  # fmt: skip
