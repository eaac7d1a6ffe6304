"""The parts of a description of how a model writes reasoning and tool calls: see
`reasoning_formats.py` and `tool_formats.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Writes:
    """How calls are written by a model that must make one, for the grammar of its answer: begin,
    calls with `between` between them, end; a call is opening, its name, middle, its arguments as
    JSON, closing. several: there may be more than one. key, key_end, value_end: around each
    argument, where arguments are not JSON as a whole."""

    opening: str
    middle: str
    closing: str = ""
    begin: str = ""
    between: str = ""
    end: str = ""
    several: bool = True
    key: str = ""
    key_end: str = ""
    value_end: str = ""


Ids = Literal["call", "short", "counted"]


@dataclass(frozen=True)
class Tools:
    """A format of tool calls.

    signs: texts that its chat templates have, all of them; without: texts that they do not have.
    ids: how the ids of calls are made: "call_" and 24 characters; 9 letters and digits, which is
    all that Mistral's templates accept; "functions.name:0", as Kimi counts them. writes: None if
    answers cannot be held to this format.
    """

    name: str
    sections: tuple[Section, ...]
    signs: tuple[str, ...]
    writes: Writes | None = None
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
        if prompt.rstrip().endswith(opens) or begun.rfind(opens) > begun.rfind(closes):
            return "reasoning"
        return "text" if prompt.rstrip().endswith(closes) or closes in begun else "start"
