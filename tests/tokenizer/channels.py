"""Formats in which thoughts, calls and answers of one turn are apart: harmony and Gemma 4.

Written to what OpenAI says of harmony in its guide (openai/harmony, Apache 2.0) and Google of
Gemma 4 ("Gemma 4 Prompt Formatting", ai.google.dev); like all of these, none is copied.
"""

from __future__ import annotations

# A message a channel; calls end a turn with <|call|>, answers that are final with <|return|>.
HARMONY = """{%- set head = "You are ChatGPT, a large language model trained by OpenAI." %}
{{- "<|start|>system<|message|>" + head + "\\nKnowledge cutoff: 2024-06\\nCurrent date: " }}
{{- strftime_now("%Y-%m-%d") + "\\n\\nReasoning: " + reasoning_effort | default("medium") }}
{{- "\\n\\n# Valid channels: analysis, commentary, final. " }}
{{- "Channel must be included for every message.<|end|>" }}
{%- set asked = namespace(tool="") %}
{%- for m in messages %}
    {%- if m.role in ("system", "developer") %}
        {%- if not loop.first %}
            {{- raise_exception("Instructions stand before everything else") }}
        {%- endif %}
        {{- "<|start|>developer<|message|># Instructions\\n\\n" + m.content + "<|end|>" }}
    {%- elif m.role == "user" %}
        {{- "<|start|>user<|message|>" + m.content + "<|end|>" }}
    {%- elif m.role == "tool" %}
        {%- if not asked.tool %}
            {{- raise_exception("A tool that nobody called has answered") }}
        {%- endif %}
        {{- "<|start|>functions." + asked.tool + " to=assistant<|channel|>commentary<|message|>" }}
        {{- m.content | tojson + "<|end|>" }}
        {%- set asked.tool = "" %}
    {%- elif m.tool_calls %}
        {%- if m.thinking %}
            {{- "<|start|>assistant<|channel|>analysis<|message|>" + m.thinking + "<|end|>" }}
        {%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {%- set asked.tool = call.name %}
        {{- "<|start|>assistant to=functions." + call.name + "<|channel|>commentary " }}
        {{- "json<|message|>" + call.arguments | tojson + "<|call|>" }}
    {%- else %}
        {%- if "<|channel|>" in m.content %}
            {{- raise_exception("Thoughts stand in 'thinking', not in 'content'") }}
        {%- endif %}
        {{- "<|start|>assistant<|channel|>final<|message|>" + m.content }}
        {{- "<|return|>" if loop.last and not add_generation_prompt else "<|end|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start|>assistant" }}
{%- endif %}"""

# What a tool says stands in the turn of the model that called it, which goes on after it.
GEMMA4 = """{%- macro written(value) -%}
    {%- if value is string -%}
        {{- '<|"|>' ~ value ~ '<|"|>' -}}
    {%- elif value is boolean -%}
        {{- value | string | lower -}}
    {%- elif value is mapping -%}
        {
        {%- for key, inner in value | dictsort -%}
            {{- key ~ ':' ~ written(inner) ~ ('' if loop.last else ',') -}}
        {%- endfor -%}
        }
    {%- elif value is iterable -%}
        [
        {%- for inner in value -%}
            {{- written(inner) ~ ('' if loop.last else ',') -}}
        {%- endfor -%}
        ]
    {%- else -%}
        {{- value -}}
    {%- endif -%}
{%- endmacro -%}
{%- macro spoken(text) -%}
    {%- for part in text.split('<channel|>') -%}
        {{- part.split('<|channel>')[0] -}}
    {%- endfor -%}
{%- endmacro -%}
{{- bos_token -}}
{%- set thinks = enable_thinking is defined and enable_thinking -%}
{%- set told = messages[0].role in ('system', 'developer') -%}
{%- if thinks or told -%}
    {{- '<|turn>system\\n' ~ ('<|think|>\\n' if thinks else '') -}}
    {{- (messages[0].content | trim if told else '') ~ '<turn|>\\n' -}}
{%- endif -%}
{%- set model = namespace(speaks=false, called='') -%}
{%- for m in (messages[1:] if told else messages) -%}
    {%- if m.role == 'tool' -%}
        {{- '<|tool_response>response:' ~ model.called ~ '{value:' ~ written(m.content) -}}
        {{- '}<tool_response|>' -}}
        {%- continue -%}
    {%- endif -%}
    {%- if model.speaks and m.role != 'assistant' -%}
        {{- '<turn|>\\n' -}}
        {%- set model.speaks = false -%}
    {%- endif -%}
    {%- if m.role != 'assistant' -%}
        {{- '<|turn>' ~ m.role ~ '\\n' ~ m.content | trim ~ '<turn|>\\n' -}}
        {%- continue -%}
    {%- endif -%}
    {{- '' if model.speaks else '<|turn>model\\n' -}}
    {{- spoken(m.content) | trim -}}
    {%- for call in m.tool_calls or [] -%}
        {%- set model.called = call.function.name -%}
        {{- '<|tool_call>call:' ~ call.function.name ~ written(call.function.arguments) -}}
        {{- '<tool_call|>' -}}
    {%- endfor -%}
    {%- set model.speaks = m.tool_calls is defined -%}
    {{- '' if model.speaks else '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt and not model.speaks -%}
    {{- '<|turn>model\\n' -}}
{%- endif -%}"""
