"""Chat templates that take tools, for several ways to write calls. Written here, in the style of
the families' own; none is copied."""

from __future__ import annotations

# The frame of most: the tools in a system message, the answers of tools in turns of their own.
_FRAME = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- '@@HEAD@@' }}
    {%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'system' and loop.first %}{% continue %}{% endif %}
    {%- if m.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
        {{- '<|im_end|>\\n' }}
        {% continue %}
    {%- endif %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'assistant' and m.reasoning_content %}
        {{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- m.content or '' }}
    {%- for call in m.tool_calls or [] %}@@CALL@@{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}@@ASK@@{%- endif %}"""


def framed(head: str, call: str, ask: str = "") -> str:
    """A template with these parts. call: writes `call.function`."""
    parts = {"@@HEAD@@": head, "@@CALL@@": call, "@@ASK@@": ask}
    text = _FRAME
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text


HERMES_CALL = (
    '{{- \'<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- call.function.arguments | tojson + '}\\n</tool_call>' }}"
)
# Qwen 2.5: no reasoning.
HERMES = framed("Calls stand in <tool_call></tool_call>. Tools:", HERMES_CALL)
# Qwen 3: the model opens its reasoning itself, unless it is switched off.
QWEN3 = framed(
    "Calls stand in <tool_call></tool_call>. Tools:",
    HERMES_CALL,
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}",
)
# The template opens the reasoning, as that of QwQ or Qwen3 Thinking does.
OPENED = framed(
    "Calls stand in <tool_call></tool_call>. Tools:", HERMES_CALL, "{{- '<think>\\n' }}"
)
# DeepSeek's arguments are text, which it does not write once more as a string.
TEXT_ARGUMENTS = framed(
    "Tools:",
    "{{- '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>' + call.function.name "
    "+ '\\n```json\\n' + call.function.arguments }}"
    "{{- '\\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>' }}",
)
