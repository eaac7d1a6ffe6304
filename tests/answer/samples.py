"""Answers as models of each family write them, and what they consist of. Written to what the
families' authors publish of their formats; the calls are the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass

CITY = {"city": 'Köln "x"\n🌦', "days": 3}
NOTHING: dict[str, object] = {}
# The same as JSON, the form that models write.
JSON = '{"city": "Köln \\"x\\"\\n🌦", "days": 3}'

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}},
]


@dataclass(frozen=True)
class Sample:
    """template: what is seen of the chat template. special: texts that are special tokens."""

    form: str
    template: str
    answer: str
    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, object], ...] = (("get_weather", CITY), ("now", NOTHING))
    special: tuple[str, ...] = ()


ONE: tuple[tuple[str, object], ...] = (("get_weather", CITY),)

SAMPLES = (
    Sample(
        "hermes",
        "{{ tools }}<tool_call></tool_call>",
        f'<tool_call>\n{{"name": "get_weather", "arguments": {JSON}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    ),
    Sample(
        "hermes",
        "{{ tools }}<tool_call></tool_call><think></think>",
        f'<think>\nHm, "<tool_call>".\n</think>\n\nLet me see.\n\n'
        f'<tool_call>{{"arguments": {JSON}, "name": "get_weather"}}</tool_call>'
        '<tool_call>{"name": "now"}</tool_call>',
        text="Let me see.",
        reasoning='Hm, "<tool_call>".',
    ),
    Sample(
        "hermes",
        "{{ tools }}<tool_call></tool_call>",
        '<tool_call>\n{"name": "get_weather", "arguments": '
        + '"{\\"city\\": \\"Köln \\\\\\"x\\\\\\"\\\\n🌦\\", \\"days\\": 3}"'
        + "}\n</tool_call>\nDone.",
        text="Done.",
        calls=ONE,
    ),
    Sample(
        "qwen-xml",
        "{{ tools }}<tool_call><function=<parameter=",
        '<tool_call>\n<function=get_weather>\n<parameter=city>\nKöln "x"\n🌦\n</parameter>\n'
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=now>\n</function>\n</tool_call>",
    ),
    Sample(
        "glm4.5",
        "{{ tools }}<tool_call><arg_key>",
        '<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Köln "x"\n🌦</arg_value>\n'
        "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n"
        "<tool_call>now\n</tool_call>",
    ),
    Sample(
        "llama3",
        '{{ tools }}<|start_header_id|>"parameters": ',
        f'{{"name": "get_weather", "parameters": {JSON}}}; {{"name": "now", "parameters": {{}}}}',
    ),
    Sample(
        "llama3",
        '{{ tools }}<|start_header_id|>"parameters": ',
        f'<|python_tag|>{{"type": "function", "name": "get_weather", "parameters": {JSON}}}',
        calls=ONE,
        special=("<|python_tag|>",),
    ),
    Sample(
        "llama3",
        '{{ tools }}<|start_header_id|>"parameters": ',
        f"<function=get_weather>{JSON}</function>",
        calls=ONE,
    ),
    Sample(
        "llama3",
        '{{ tools }}<|start_header_id|>"parameters": ',
        '{"name": "Anna", "age": 3}',
        text='{"name": "Anna", "age": 3}',
        calls=(),
    ),
    Sample(
        "llama-pythonic",
        "{{ tools }}[func_name1(params_name1=params_value1)]",
        "[get_weather(city='Köln \"x\"\\n🌦', days=3), now()]",
    ),
    Sample(
        "llama-pythonic",
        "{{ tools }}[func_name1(params_name1=params_value1)]",
        "[1] is a citation, and so is [get_weather].",
        text="[1] is a citation, and so is [get_weather].",
        calls=(),
    ),
    Sample(
        "mistral",
        "{{ tools }}[TOOL_CALLS]",
        f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {JSON}, "id": "abcdefghi"}}, '
        '{"name": "now", "arguments": {}}]',
        special=("[TOOL_CALLS]",),
    ),
    Sample(
        "mistral-args",
        "{{ tools }}[TOOL_CALLS][ARGS][THINK][/THINK]",
        f"[THINK]Hm.[/THINK]Well.[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{JSON}"
        "[TOOL_CALLS]now[ARGS]{}",
        text="Well.",
        reasoning="Hm.",
        special=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
    ),
    Sample(
        "deepseek-v3",
        "{{ tools }}<｜tool▁calls▁begin｜>```json",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        f"```json\n{JSON}\n```<｜tool▁call▁end｜>\n"
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
        special=(
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁calls▁end｜>",
        ),
    ),
    Sample(
        "deepseek-v3.1",
        "{{ tools }}<｜tool▁calls▁begin｜>",
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{JSON}"
        "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
    ),
    Sample(
        "deepseek-v3.2",
        "{{ tools }}｜DSML｜",
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
        '<｜DSML｜parameter name="city" string="true">Köln "x"\n🌦</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
        '</｜DSML｜invoke>\n<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n'
        "</｜DSML｜function_calls>",
    ),
    Sample(
        "glm4",
        "{{ tools }}<|observation|>",
        f"get_weather\n{JSON}",
        calls=ONE,
    ),
    Sample(
        "glm4",
        "{{ tools }}<|observation|>",
        "get_weather is what I would call.",
        text="get_weather is what I would call.",
        calls=(),
    ),
    Sample(
        "granite",
        "{{ tools }}<|tool_call|>",
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {JSON}}}, '
        '{"name": "now", "arguments": {}}]',
        special=("<|tool_call|>",),
    ),
    Sample(
        "phi4",
        "{{ tools }}<|tool_call|><|/tool_call|>",
        f'<|tool_call|>[{{"type": "function", "function": {{"name": "get_weather", "arguments": '
        f'{JSON}}}}}, {{"name": "now", "arguments": {{}}}}]<|/tool_call|>',
        special=("<|tool_call|>", "<|/tool_call|>"),
    ),
    Sample(
        "gemma4",
        "{{ tools }}<|tool_call><|channel><channel|>",
        "<|channel>thought\nHm.<channel|>Well."
        '<|tool_call>call:get_weather{city:<|"|>Köln "x"\n🌦<|"|>,days:3}<tool_call|>'
        "<|tool_call>call:now{}<tool_call|>",
        text="Well.",
        reasoning="Hm.",
        special=("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>'),
    ),
    Sample(
        "functiongemma",
        "{{ tools }}<start_function_call>",
        '<start_function_call>call:get_weather{city:<escape>Köln "x"\n🌦<escape>,days:3}'
        "<end_function_call><start_function_call>call:now{}<end_function_call>",
    ),
    Sample(
        "command-a",
        "{{ tools }}<|START_ACTION|><|START_THINKING|><|END_THINKING|>",
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n"
        f'    {{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {JSON}}},\n'
        '    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>',
        reasoning="Hm.",
        special=("<|START_THINKING|>", "<|END_THINKING|>", "<|START_ACTION|>", "<|END_ACTION|>"),
    ),
    Sample(
        "command-a",
        "{{ tools }}<|START_ACTION|><|START_THINKING|><|END_THINKING|>",
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Sunny.<|END_RESPONSE|>",
        text="Sunny.",
        reasoning="Hm.",
        calls=(),
        special=("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>"),
    ),
    Sample(
        "command-r",
        "{{ tools }}Action: tool_name",
        f'Action: ```json\n[\n    {{"tool_name": "get_weather", "parameters": {JSON}}},\n'
        '    {"tool_name": "now", "parameters": {}}\n]\n```',
    ),
    Sample(
        "harmony",
        "{{ tools }}<|channel|><|message|><|start|>",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>Well.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        f"<|constrain|>json<|message|>{JSON}<|call|>",
        text="Well.",
        reasoning="Hm.",
        calls=ONE,
        special=(
            *("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|constrain|>", "<|call|>"),
        ),
    ),
    Sample(
        "harmony",
        "{{ tools }}<|channel|><|message|><|start|>",
        f" to=functions.get_weather<|channel|>commentary json<|message|>{JSON}<|call|>",
        calls=ONE,
    ),
    Sample(
        "harmony",
        "{{ tools }}<|channel|><|message|><|start|>",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
        "It is <b>sunny</b>.<|return|>",
        text="It is <b>sunny</b>.",
        reasoning="Hm.",
        calls=(),
    ),
    Sample(
        "kimi-k2",
        "{{ tools }}<|tool_calls_section_begin|>",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
        f"<|tool_call_argument_begin|>{JSON}<|tool_call_end|><|tool_call_begin|>functions.now:1"
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    ),
    Sample(
        "minimax-m2",
        "{{ tools }}<minimax:tool_call>",
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Köln "x"\n🌦'
        '</parameter>\n<parameter name="days">3</parameter>\n</invoke>\n<invoke name="now">\n'
        "</invoke>\n</minimax:tool_call>",
    ),
    Sample(
        "seed-oss",
        "{{ tools }}<seed:tool_call><seed:think></seed:think>",
        "<seed:think>Hm.</seed:think><seed:tool_call>\n<function=get_weather>\n"
        '<parameter=city>Köln "x"\n🌦</parameter>\n<parameter=days>3</parameter>\n</function>\n'
        "</seed:tool_call><seed:tool_call><function=now></function></seed:tool_call>",
        reasoning="Hm.",
    ),
    Sample(
        "jamba",
        "{{ tools }}<tool_calls>",
        f'<tool_calls>[{{"name": "get_weather", "arguments": {JSON}}}, {{"name": "now", '
        '"arguments": {}}]</tool_calls>',
    ),
    Sample(
        "nemotron",
        "{{ tools }}<TOOLCALL>",
        f'<TOOLCALL>[{{"name": "get_weather", "arguments": {JSON}}}, {{"name": "now", '
        '"arguments": {}}]</TOOLCALL>',
    ),
    Sample(
        "lfm2",
        "{{ tools }}<|tool_call_start|>",
        "<|tool_call_start|>[get_weather(city='Köln \"x\"\\n🌦', days=3), now()]"
        "<|tool_call_end|>Wait.",
        text="Wait.",
        special=("<|tool_call_start|>", "<|tool_call_end|>"),
    ),
    Sample(
        "olmo3",
        "{{ tools }}<function_calls>",
        '<function_calls>get_weather(city="Köln \\"x\\"\\n🌦", days=3)\nnow()</function_calls>',
    ),
    Sample(
        "functionary",
        "{{ tools }}<function=</function>",
        f"<function=get_weather>{JSON}</function><function=now>{{}}</function>",
    ),
)
