"""What every request to a model is held to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from rbee_worker.answer import NO_FORMAT, Format
from rbee_worker.types import EosToken, Request

CHARACTERS_PER_TOKEN = 16  # a prompt with more characters per token of context cannot fit


class Rules(Struct, frozen=True, kw_only=True):
    """What a model and its worker's settings require of every request.

    template: the model's chat template, None if it has none. worker: defaults of parameters that
    the worker was started with. generation: the model's own, {} if they are not to be applied.
    exempt_ids: the template's special tokens. turn_stops: stop strings of a conversation that gives
    none, in a chat format without a token for the end of a turn.
    tool_template: the template of conversations with tools. form: how the model writes reasoning
    and calls. takes_tools: tools can be offered; prompted: in a system message of the worker's own.
    pictures: whether the model takes them; no_pictures: why not, if more than that is known.
    thinking: what the template's switch for reasoning is where a request does not say.
    """

    context: int
    vocab_size: int
    characters_per_token: int = CHARACTERS_PER_TOKEN
    template: str | None = None
    worker: Mapping[str, int | float] = {}
    generation: Mapping[str, Any] = {}
    exempt_ids: frozenset[int] = frozenset()
    eos: tuple[EosToken, ...] = ()
    turn_stops: tuple[str, ...] = ()
    lenient: bool = False
    tool_template: str | None = None
    pictures: bool = False
    no_pictures: str = ""
    form: Format = NO_FORMAT
    takes_tools: bool = False
    prompted: bool = False
    thinking: bool | None = None

    def template_for(self, request: Request) -> str:
        """The template that renders this request's messages, "" if there is none."""
        if request.chat.offered and self.tool_template is not None:
            return self.tool_template
        return self.template or ""

    @property
    def most_characters(self) -> int:
        """The most characters that a prompt may have; of a longer one that may be cut (for a
        vector) only the beginning is tokenized."""
        return self.characters_per_token * self.context
