"""How models write reasoning and tool calls: one table, data only.

Each row is what a family's authors publish (its chat template, its model card); `find.py` says
which row a model follows, `bodies.py` reads each kind of body.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from rbee_worker.types import Place

# ---- the ways to write calls between two marks


@dataclass(frozen=True)
class Objects:
    """JSON: `{"name": .., "arguments": {..}}`, one, several after each other, or a list of them."""

    names: tuple[str, ...] = ("name",)
    arguments: tuple[str, ...] = ("arguments", "parameters")


@dataclass(frozen=True)
class Named:
    """A name, anything, and the arguments as a JSON object. before: marks that come before a name;
    none: the name comes first."""

    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tagged:
    """A name, then keys and values between tags, as in XML without its escapes.

    before_name: "" if the name comes first. key, key_end: around a key. value: where a value begins
    after its key, "" for at once. value_end: where it ends. end: of a call. trim: one line break at
    each end of a value is not part of it.
    """

    key: str
    key_end: str
    value_end: str
    end: str
    value: str = ""
    before_name: str = ""
    trim: bool = False


@dataclass(frozen=True)
class Python:
    """Calls as in Python: `[f(a=1), g(b="x")]`, or one in each line."""


@dataclass(frozen=True)
class Pairs:
    """`call:name{key:value,..}` with bare keys, and strings between a mark of their own."""

    quote: str


Body = Objects | Named | Tagged | Python | Pairs


@dataclass(frozen=True)
class Section:
    """Where calls stand in an answer.

    opens: marks that begin a section; none: the answer itself is one, and it is one only if it
    names a tool of the request. closes: marks that end it; none: it ends with its last call.
    """

    body: Body
    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Channels:
    """Harmony: an answer is messages, each with a header that says what it is. The prompt has begun
    the first header.

    start: begins a header; message: ends it; ends: of a message. channel: stands before the name of
    a message's channel; reasoning: the channels that are reasoning; recipient: stands before a
    tool's name. to_answer: text that ends the reasoning and begins the answer.
    """

    start: str
    channel: str
    message: str
    ends: tuple[str, ...]
    reasoning: tuple[str, ...]
    recipient: str
    to_answer: str

    def is_reasoning(self, header: str) -> bool:
        """Whether the message with this header is reasoning."""
        _, _, rest = header.rpartition(self.channel)
        return rest.strip().split(" ")[0] in self.reasoning

    def tool(self, header: str) -> str:
        """The tool that the message with this header calls, "" if it is no call."""
        _, _, rest = header.partition(self.recipient)
        name = re.match(r"[\w.-]+", rest)
        return "" if name is None else name[0]


@dataclass(frozen=True)
class Thinking:
    """Reasoning between two marks. dropped: marks around the answer itself, which are no text.

    signs: texts of the chat template (or tokens of the vocabulary) by which it is known.
    """

    opens: str
    closes: str
    signs: tuple[str, ...]
    dropped: tuple[str, ...] = ()


Ids = Literal["call", "short", "counted"]


@dataclass(frozen=True)
class Tools:
    """A format of tool calls.

    signs: texts that its chat templates have, all of them; without: texts that they do not have.
    ids: how the ids of calls are made: "call_" and 24 characters; 9 letters and digits, which is
    all that Mistral's templates accept; "functions.name:0", as Kimi counts them.
    """

    name: str
    sections: tuple[Section, ...]
    signs: tuple[str, ...]
    without: tuple[str, ...] = ()
    ids: Ids = "call"


@dataclass(frozen=True)
class Format:
    """What a model's answers look like. None: this model has no such thing."""

    tools: Tools | None = None
    thinking: Thinking | None = None
    channels: Channels | None = None

    @property
    def reasons(self) -> bool:
        """Whether answers may contain reasoning."""
        return self.thinking is not None or self.channels is not None

    @property
    def reasoning_end(self) -> str:
        """The text after which a model goes on with its answer; "" if it does not reason."""
        if self.channels is not None:
            return self.channels.to_answer
        return self.thinking.closes if self.thinking is not None else ""

    def place(self, prompt: str, begun: str = "") -> Place:
        """Where in an answer a prompt ends: its template may have opened the reasoning. begun: the
        part of the answer that is in the prompt already."""
        if self.channels is not None:
            _, found, last = prompt.rpartition(self.channels.start)
            header, message, _ = last.partition(self.channels.message)
            if not found or not message:
                return "start"
            return "reasoning" if self.channels.is_reasoning(header) else "text"
        if self.thinking is None:
            return "start"
        opens, closes = self.thinking.opens, self.thinking.closes
        opened = prompt.rstrip().endswith(opens) or begun.rfind(opens) > begun.rfind(closes)
        return "reasoning" if opened else "start"


NO_FORMAT = Format()

HARMONY = Channels(
    start="<|start|>",
    channel="<|channel|>",
    message="<|message|>",
    ends=("<|end|>", "<|call|>", "<|return|>"),
    reasoning=("analysis",),
    recipient="to=functions.",
    to_answer="<|end|><|start|>assistant<|channel|>final<|message|>",
)
HARMONY_SIGNS = ("<|channel|>", "<|message|>", "<|start|>")

# The first row whose signs are all there is used.
THINKING: tuple[Thinking, ...] = (
    Thinking("<|channel>thought", "<channel|>", ("<|channel>", "<channel|>")),  # Gemma 4
    Thinking(
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    Thinking("<seed:think>", "</seed:think>", ("<seed:think>", "</seed:think>")),
    Thinking("[THINK]", "[/THINK]", ("[THINK]", "[/THINK]")),
    Thinking(
        "<think>", "</think>", ("<think>", "</think>", "<answer>"), ("<answer>", "</answer>")
    ),  # Hunyuan
    Thinking(
        "<think>", "</think>", ("<think>", "</think>", "<response>"), ("<response>", "</response>")
    ),  # Granite 3.3
    Thinking("<think>", "</think>", ("<think>", "</think>")),
    Thinking("<think>", "</think>", ("</think>",)),  # a template that only closes it
    Thinking("<thought>", "</thought>", ("<thought>", "</thought>")),
)

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
    Tools("harmony", (), HARMONY_SIGNS),
    Tools(
        "seed-oss",
        (Section(_QWEN_XML, ("<seed:tool_call>",), ("</seed:tool_call>",)),),
        ("<seed:tool_call>",),
    ),
    Tools(
        "minimax-m2",
        (Section(_INVOKE, ("<minimax:tool_call>",), ("</minimax:tool_call>",)),),
        ("<minimax:tool_call>",),
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
    ),
    Tools(
        "deepseek-v3.1",
        (Section(Named(("<｜tool▁call▁begin｜>",)), *_DEEPSEEK),),
        ("<｜tool▁calls▁begin｜>",),
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
    ),
    Tools(
        "command-r",
        (
            Section(
                Objects(("tool_name",), ("parameters",)),
                ("Action: ```json", "Action:```json"),
                ("```",),
            ),
        ),
        ("Action:", "tool_name"),
    ),
    Tools(
        "mistral-args",
        (Section(Named(("[TOOL_CALLS]",)), ("[TOOL_CALLS]",)),),
        ("[TOOL_CALLS]", "[ARGS]"),
        ids="short",
    ),
    Tools("mistral", (Section(Objects(), ("[TOOL_CALLS]",)),), ("[TOOL_CALLS]",), ids="short"),
    Tools(
        "phi4", (Section(Objects(), ("<|tool_call|>",), ("<|/tool_call|>",)),), ("<|/tool_call|>",)
    ),
    Tools("phi4", (Section(Objects(), ("<|tool_call|>",), ("<|/tool_call|>",)),), ("<|/tool|>",)),
    Tools("granite", (Section(Objects(), ("<|tool_call|>",)),), ("<|tool_call|>",)),
    Tools("granite", (Section(Objects(), ("<function_call>",)),), ("<function_call>",)),
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
    Tools("glm4.5", (Section(_ARG_KEY, *_CALL),), ("<tool_call>", "<arg_key>")),
    Tools("qwen-xml", (Section(_QWEN_XML, *_CALL),), ("<tool_call>", "<function=", "<parameter=")),
    Tools("jamba", (Section(Objects(), ("<tool_calls>",), ("</tool_calls>",)),), ("<tool_calls>",)),
    Tools(
        "hermes",
        (Section(Objects(), *_CALL),),
        ("<tool_call>",),
        without=("]<]minimax[>[",),  # tags of another kind
    ),
    Tools("nemotron", (Section(Objects(), ("<TOOLCALL>",), ("</TOOLCALL>",)),), ("<TOOLCALL>",)),
    Tools(
        "functionary",
        (Section(Named(("<function=",)), ("<function=",), ("</function>",)),),
        ("<function=", "</function>"),
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
    ),
    Tools(
        "llama-pythonic",
        (Section(Python(), ("<|python_start|>",), ("<|python_end|>",)), Section(Python())),
        ("[func_name1(",),
    ),
    Tools("glm4", (Section(Named()),), ("<|observation|>",)),
)

# How tools are described to a model whose template knows none (--tool-format prompt).
PROMPTED = "hermes"


def tool_formats() -> tuple[str, ...]:
    """The names of all formats of tool calls."""
    return tuple(dict.fromkeys(row.name for row in TOOLS))


def by_name(name: str) -> Tools:
    """The format of that name."""
    return next(row for row in TOOLS if row.name == name)
