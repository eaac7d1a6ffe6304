"""How models write tool calls: one table, data only.

Each row is what a family's authors publish (its chat template, its model card); `kinds.py` says
what the parts of a row mean, `find.py` which row a model follows, `bodies.py` how calls are read.
"""

from __future__ import annotations

from dataclasses import replace

from rbee_worker.answer.kinds import (
    Named,
    Objects,
    Pairs,
    Python,
    Section,
    Tagged,
    Tools,
    Writes,
)
from rbee_worker.answer.reasoning_formats import HARMONY_SIGNS

_NAME_FIRST = ('{"name": "', '", "arguments": ', "}")


def _listed(begin: str, end: str) -> Writes:
    return Writes(*_NAME_FIRST, begin=begin, between=", ", end=end)


_CALL = ("<tool_call>",), ("</tool_call>",)
_QWEN_XML = Tagged(
    before_name="<function=",
    key="<parameter=",
    key_end=">",
    value_end="</parameter>",
    end="</function>",
    trim=True,
)
_INVOKE = Tagged(
    before_name='invoke name="',
    key='parameter name="',
    key_end='"',
    value=">",
    value_end="</parameter>",
    end="</invoke>",
)
_DSML = replace(_INVOKE, value_end="</｜DSML｜parameter>", end="</｜DSML｜invoke>")
_ARG_KEY = Tagged(
    key="<arg_key>",
    key_end="</arg_key>",
    value="<arg_value>",
    value_end="</arg_value>",
    end="</tool_call>",
)
_DEEPSEEK = ("<｜tool▁calls▁begin｜>",), ("<｜tool▁calls▁end｜>",)

# The first row whose signs are all there is used: the particular before the general.
TOOLS: tuple[Tools, ...] = (
    Tools(
        "harmony",
        (),
        HARMONY_SIGNS,
        Writes(" to=functions.", "<|channel|>commentary json<|message|>", several=False),
    ),
    Tools(
        "seed-oss",
        (Section(_QWEN_XML, ("<seed:tool_call>",), ("</seed:tool_call>",)),),
        ("<seed:tool_call>",),
        Writes(
            "<seed:tool_call>\n<function=",
            ">\n",
            "</function>\n</seed:tool_call>",
            between="\n",
            key="<parameter=",
            key_end=">",
            value_end="</parameter>\n",
        ),
    ),
    Tools(
        "minimax-m2",
        (Section(_INVOKE, ("<minimax:tool_call>",), ("</minimax:tool_call>",)),),
        ("<minimax:tool_call>",),
        Writes(
            '<invoke name="',
            '">\n',
            "</invoke>\n",
            begin="<minimax:tool_call>\n",
            end="</minimax:tool_call>",
            key='<parameter name="',
            key_end='">',
            value_end="</parameter>\n",
        ),
    ),
    Tools(
        "deepseek-v3.2",
        (
            Section(_DSML, ("<｜DSML｜function_calls>",), ("</｜DSML｜function_calls>",)),
            Section(_DSML, ("<｜DSML｜tool_calls>",), ("</｜DSML｜tool_calls>",)),
        ),
        ("｜DSML｜",),
    ),
    Tools(
        "deepseek-v3",
        (Section(Named(("<｜tool▁sep｜>",)), *_DEEPSEEK),),
        ("<｜tool▁calls▁begin｜>", "```json"),
        Writes(
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
            "\n```json\n",
            "\n```<｜tool▁call▁end｜>",
            begin="<｜tool▁calls▁begin｜>",
            between="\n",
            end="<｜tool▁calls▁end｜>",
        ),
    ),
    Tools(
        "deepseek-v3.1",
        (Section(Named(("<｜tool▁call▁begin｜>",)), *_DEEPSEEK),),
        ("<｜tool▁calls▁begin｜>",),
        Writes(
            "<｜tool▁call▁begin｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜>",
            begin="<｜tool▁calls▁begin｜>",
            end="<｜tool▁calls▁end｜>",
        ),
    ),
    Tools(
        "kimi-k2",
        (
            Section(
                Named(("<|tool_call_begin|>functions.",)),
                ("<|tool_calls_section_begin|>",),
                ("<|tool_calls_section_end|>",),
            ),
        ),
        ("<|tool_calls_section_begin|>",),
        Writes(
            "<|tool_call_begin|>functions.",
            ":0<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
            begin="<|tool_calls_section_begin|>",
            end="<|tool_calls_section_end|>",
            several=False,
        ),
        ids="counted",
    ),
    Tools(
        "gemma4",
        (Section(Pairs('<|"|>'), ("<|tool_call>",), ("<tool_call|>",)),),
        ("<|tool_call>",),
    ),
    Tools(
        "functiongemma",
        (Section(Pairs("<escape>"), ("<start_function_call>",), ("<end_function_call>",)),),
        ("<start_function_call>",),
    ),
    Tools(
        "command-a",
        (
            Section(
                Objects(("tool_name",), ("parameters",)), ("<|START_ACTION|>",), ("<|END_ACTION|>",)
            ),
        ),
        ("<|START_ACTION|>",),
        Writes(
            '{"tool_call_id": "0", "tool_name": "',
            '", "parameters": ',
            "}",
            begin="<|START_ACTION|>[\n    ",
            end="\n]<|END_ACTION|>",
            several=False,
        ),
    ),
    Tools(
        "command-r",
        (
            Section(
                Objects(("tool_name",), ("parameters",)),
                ("Action: ```json", "Action:```json", "Action:\n```json"),
                ("```",),
            ),
        ),
        ("Action:", "tool_name"),
        Writes(
            '{\n        "tool_name": "',
            '",\n        "parameters": ',
            "\n    }",
            begin="Action: ```json\n[\n    ",
            between=",\n    ",
            end="\n]\n```",
        ),
    ),
    Tools(
        "mistral-args",
        (Section(Named(("[TOOL_CALLS]",)), ("[TOOL_CALLS]",)),),
        ("[TOOL_CALLS]", "[ARGS]"),
        Writes("[TOOL_CALLS]", "[ARGS]"),
        ids="short",
    ),
    Tools(
        "mistral",
        (Section(Objects(), ("[TOOL_CALLS]",)),),
        ("[TOOL_CALLS]",),
        _listed("[TOOL_CALLS][", "]"),
        ids="short",
    ),
    Tools(
        "phi4",
        (Section(Objects(), ("<|tool_call|>",), ("<|/tool_call|>",)),),
        ("<|/tool_call|>",),
        _listed("<|tool_call|>[", "]<|/tool_call|>"),
    ),
    Tools(
        "phi4",
        (Section(Objects(), ("<|tool_call|>",), ("<|/tool_call|>",)),),
        ("<|/tool|>",),
        _listed("<|tool_call|>[", "]<|/tool_call|>"),
    ),
    Tools(
        "granite",
        (Section(Objects(), ("<|tool_call|>",)),),
        ("<|tool_call|>",),
        _listed("<|tool_call|>[", "]"),
    ),
    Tools(
        "granite",
        (Section(Objects(), ("<function_call>",)),),
        ("<function_call>",),
        _listed("<function_call>[", "]"),
    ),
    Tools(
        "lfm2",
        (Section(Python(), ("<|tool_call_start|>",), ("<|tool_call_end|>",)),),
        ("<|tool_call_start|>",),
    ),
    Tools(
        "olmo3",
        (Section(Python(), ("<function_calls>",), ("</function_calls>",)),),
        ("<function_calls>",),
    ),
    Tools(
        "glm4.5",
        (Section(_ARG_KEY, *_CALL),),
        ("<tool_call>", "<arg_key>"),
        Writes(
            "<tool_call>",
            "\n",
            "</tool_call>",
            between="\n",
            key="<arg_key>",
            key_end="</arg_key>\n<arg_value>",
            value_end="</arg_value>\n",
        ),
    ),
    Tools(
        "qwen-xml",
        (Section(_QWEN_XML, *_CALL),),
        ("<tool_call>", "<function=", "<parameter="),
        Writes(
            "<tool_call>\n<function=",
            ">\n",
            "</function>\n</tool_call>",
            between="\n",
            key="<parameter=",
            key_end=">\n",
            value_end="\n</parameter>\n",
        ),
    ),
    Tools(
        "jamba",
        (Section(Objects(), ("<tool_calls>",), ("</tool_calls>",)),),
        ("<tool_calls>",),
        _listed("<tool_calls>[", "]</tool_calls>"),
    ),
    Tools(
        "hermes",
        (Section(Objects(), *_CALL),),
        ("<tool_call>",),
        Writes('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", between="\n"),
        without=("]<]minimax[>[",),  # tags of another kind
    ),
    Tools(
        "nemotron",
        (Section(Objects(), ("<TOOLCALL>",), ("</TOOLCALL>",)),),
        ("<TOOLCALL>",),
        _listed("<TOOLCALL>[", "]</TOOLCALL>"),
    ),
    Tools(
        "functionary",
        (Section(Named(("<function=",)), ("<function=",), ("</function>",)),),
        ("<function=", "</function>"),
        Writes("<function=", ">", "</function>"),
        without=('"parameters"',),
    ),
    Tools(
        "llama3",
        (
            Section(Objects(), ("<|python_tag|>",)),
            Section(Named(("<function=",)), ("<function=",), ("</function>",)),
            Section(Objects()),
        ),
        ('"parameters": ', "<|start_header_id|>"),
        Writes('{"name": "', '", "parameters": ', "}", between="; "),
    ),
    Tools(
        "llama-pythonic",
        (Section(Python(), ("<|python_start|>",), ("<|python_end|>",)), Section(Python())),
        ("[func_name1(",),
    ),
    Tools("glm4", (Section(Named()),), ("<|observation|>",), Writes("", "\n", several=False)),
)

# How tools are described to a model whose template knows none (--tool-format prompt).
PROMPTED = "hermes"


def tool_formats() -> tuple[str, ...]:
    """The names of all formats of tool calls."""
    return tuple(dict.fromkeys(row.name for row in TOOLS))


def by_name(name: str) -> Tools:
    """The format of that name."""
    return next(row for row in TOOLS if row.name == name)
