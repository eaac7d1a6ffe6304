"""How one answer is taken apart: the model's format, the request's tools, a thinking budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rbee_worker.answer import Format, Reader, call_ids, tool_table
from rbee_worker.answer.schemas import Tool
from rbee_worker.params import Rules
from rbee_worker.types import Place, Request, Resolved

if TYPE_CHECKING:
    from rbee_worker.tokenizer.core import Tokenizer


@dataclass(frozen=True)
class Reading:
    """tools: those that were offered, by name. place: where in the answer the prompt ends. budget:
    tokens of reasoning after which `reasoning_end` is written, None for any number."""

    form: Format
    tools: Mapping[str, Tool]
    place: Place
    most_calls: int | None = None
    budget: int | None = None
    reasoning_end: tuple[int, ...] = ()

    def reader(self, answer_id: str) -> Reader:
        """A reader for one answer. answer_id: what the ids of its calls are made from."""
        ids = call_ids("call" if self.form.tools is None else self.form.tools.ids, answer_id)
        return Reader(self.form, self.tools, ids, place=self.place, most=self.most_calls)


def reading_of(
    request: Request, resolved: Resolved, rules: Rules, tokenizer: Tokenizer, prompt: str | None
) -> Reading | None:
    """How the answer is read; None if it is nothing but text. prompt: the rendered conversation,
    None for a prompt of another kind (whose `request.place` is known if it was a conversation)."""
    chat = request.chat
    form = rules.form if chat.separate_reasoning else Format(tools=rules.form.tools)
    offered = chat.offered if rules.takes_tools else ()
    if (prompt is None and request.place is None) or not (form.reasons or offered):
        return None
    if request.place is not None:
        place = request.place
    else:
        assert prompt is not None
        place = form.place(prompt, _begun(request))
    budget = resolved.params.thinking_budget
    end: tuple[int, ...] = ()
    if budget is not None:
        end = tuple(tokenizer.encode(form.reasoning_end, add_special=False))
    return Reading(
        form=form,
        tools=tool_table(offered),
        place=place,
        most_calls=None if chat.parallel_tool_calls else 1,
        budget=budget,
        reasoning_end=end,
    )


def _begun(request: Request) -> str:
    """The part of the answer that is the request's own: its last message, if that is continued."""
    if not request.continue_final_message or not request.messages:
        return ""
    content = request.messages[-1].get("content")
    return content if isinstance(content, str) else ""
