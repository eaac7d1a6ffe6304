"""One response: what was asked, and the job that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from rbee_worker.server.jobs import Job
from rbee_worker.server.openai.shared import Pieces
from rbee_worker.server.responses.items import turns_of
from rbee_worker.server.responses.output import output_of
from rbee_worker.server.responses.schemas import OutputItem, ResponseEnvelope


@dataclass(frozen=True, eq=False)
class Kept:
    """One response: what was asked, and the job that answers it.

    messages: the conversation that it answers, without instructions; items: its own `input`; tools:
    as they were given.
    """

    id: str
    created: int
    model: str
    given: ResponseEnvelope
    tools: tuple[dict[str, Any], ...]
    messages: tuple[dict[str, Any], ...]
    items: list[dict[str, Any]]
    job: Job
    pieces: Pieces
    characters: int  # of `messages`

    @property
    def sealed(self) -> bool:
        """Whether reasoning is also wanted in the form of OpenAI's encrypted reasoning."""
        return "reasoning.encrypted_content" in (self.given.include or ())

    def output(self) -> list[OutputItem]:
        """The items of the answer so far."""
        return output_of(self.job, self.pieces, sealed=self.sealed)

    def conversation(self) -> tuple[dict[str, Any], ...]:
        """The messages up to the answer."""
        return (*self.messages, *turns_of(msgspec.to_builtins(self.output())))

    @property
    def size(self) -> int:
        """About how many characters the conversation has, the answer so far included."""
        return self.characters + 4 * self.job.tokens_out
