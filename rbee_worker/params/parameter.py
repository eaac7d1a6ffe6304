"""One row of the parameter table: one key of a request."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

Surface = Literal["job", "generate", "completions", "chat", "speech"]
TEXTS: tuple[Surface, ...] = ("job", "generate", "completions", "chat")  # answered with text
SURFACES: tuple[Surface, ...] = (*TEXTS, "speech")

Kind = Literal["integer", "number", "boolean", "strings", "ids", "biases", "any"]
Role = Literal[
    "sampling",  # ends up in SamplingParams
    "constraint",  # all of these together give `SamplingParams.constraint`
    "transport",  # read by the route itself, never by `resolve`
    "inert",  # accepted and ignored, because it cannot have an effect
    "unsupported",  # known but not implemented: only null and the values in `off` are accepted
]

MAX_SEED = (1 << 64) - 1
MAX_INT = (1 << 31) - 1  # for parameters without a bound of their own
MAX_STOPS = 16
MAX_STOP_LENGTH = 256  # characters
REST = "the rest of the context"  # a default of max_tokens, where it is no number
MAX_BIASES = 16_384  # token ids of one logit_bias; checking and applying them takes time


class Parameter(Struct, frozen=True, kw_only=True):
    """One key of a request body."""

    name: str
    kind: Kind
    meaning: str
    role: Role = "sampling"
    default: Any = None
    low: float | None = None  # an int where exactness matters
    high: float | None = None
    above: bool = False  # `low` itself is not allowed
    off: tuple[Any, ...] = ()  # values outside the range that mean "off"; they become `default`
    aliases: tuple[str, ...] = ()
    surfaces: tuple[Surface, ...] = SURFACES
    generation: bool = False  # generation_config.json may give the default
    chat: Any = None  # the default of chats, if it is another

    @property
    def range(self) -> str:
        """The accepted values in words or as an interval, for example "(0, 2]"."""
        match self.kind:
            case "boolean":
                return "true or false"
            case "strings":
                return f"a string or up to {MAX_STOPS} strings of 1 to {MAX_STOP_LENGTH} characters"
            case "ids":
                return f"up to {MAX_STOPS} token ids"
            case "biases":
                bounds = f"[{self.low:g}, {self.high:g}]"
                return f"up to {MAX_BIASES:,} of token id -> number in {bounds}"
            case "any":
                return ""
        if self.low is None:
            return ""
        if self.high in (None, MAX_INT):
            return f">= {plain(self.low)}"
        assert self.high is not None
        return f"{'(' if self.above else '['}{plain(self.low)}, {plain(self.high)}]"


def plain(number: float) -> str:
    """A bound as text: all digits of an integer, no trailing zeros."""
    return str(number) if isinstance(number, int) else f"{number:g}"
