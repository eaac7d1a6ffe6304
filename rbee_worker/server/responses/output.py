"""The items of one answer, built from its events, and OpenAI's stream events that tell of them."""

from __future__ import annotations

from typing import Any

import msgspec

from rbee_worker.answer_parts import CallPiece
from rbee_worker.server.jobs import Job
from rbee_worker.server.openai.chat import scores
from rbee_worker.server.openai.schemas import ChatLogprob
from rbee_worker.server.openai.shared import FINISH, Pieces
from rbee_worker.server.responses.items import hidden
from rbee_worker.server.responses.schemas import (
    FunctionCall,
    ItemStatus,
    OutputItem,
    OutputMessage,
    OutputText,
    Reasoning,
    ReasoningText,
)
from rbee_worker.types import End, Event, Token

Told = tuple[str, dict[str, Any]]  # an event's type, and its other fields


class Output:
    """`items` grow with every event that is fed; `feed` returns what a stream tells of it.

    sealed: reasoning also gets `encrypted_content`.
    """

    def __init__(self, answer_id: str, pieces: Pieces, *, sealed: bool) -> None:
        self.items: list[OutputItem] = []
        self._suffix = answer_id.partition("_")[2]
        self._pieces = pieces
        self._sealed = sealed
        self._open: OutputItem | None = None  # the last item, while it can grow
        self._call = -1  # the number of the open call

    def feed(self, event: Event) -> list[Told]:
        """Take in one event of the answer."""
        if not isinstance(event, Token | End):
            return []
        text = event.t if isinstance(event, Token) else event.text
        told: list[Told] = []
        if event.reasoning:
            told += self._reason(event.reasoning)
        scored = scores(self._pieces, event.ids, event.logprobs)
        rows = [] if scored is None or event.reasoning or event.calls else scored.content
        if text or (rows and isinstance(self._open, OutputMessage)):
            told += self._say(text, rows)
        for call in event.calls:
            told += self._piece(call)
        if isinstance(event, End):
            if not self.items:
                told += self._say("", [])
            complete = FINISH.get(event.stop.rule) == "stop" and event.stop.rule != "CANCELLED"
            told += self._closed("completed" if complete else "incomplete")
        return told

    def _reason(self, text: str) -> list[Told]:
        told: list[Told] = []
        item = self._open
        if not isinstance(item, Reasoning):
            item = Reasoning(id=f"rs_{self._suffix}{len(self.items)}")
            told = [*self._begin(item), self._part("added", ReasoningText())]
            item.content.append(ReasoningText())
        item.content[0].text += text
        return [*told, ("response.reasoning_text.delta", {**self._place(), "delta": text})]

    def _say(self, text: str, rows: list[ChatLogprob]) -> list[Told]:
        told: list[Told] = []
        item = self._open
        if not isinstance(item, OutputMessage):
            item = OutputMessage(id=f"msg_{self._suffix}{len(self.items)}")
            told = [*self._begin(item), self._part("added", OutputText())]
            item.content.append(OutputText())
        item.content[0].text += text
        item.content[0].logprobs += rows
        if text or rows:
            delta = {**self._place(), "delta": text, "logprobs": rows}
            told.append(("response.output_text.delta", delta))
        return told

    def _piece(self, call: CallPiece) -> list[Told]:
        told: list[Told] = []
        item = self._open
        if not isinstance(item, FunctionCall) or self._call != call.index:
            name = f"fc_{self._suffix}{len(self.items)}"
            item = FunctionCall(id=name, call_id=call.id, name=call.name)
            told = self._begin(item)
            self._call = call.index
        item.arguments += call.arguments
        if call.arguments:
            delta = {**self._item(), "delta": call.arguments}
            told.append(("response.function_call_arguments.delta", delta))
        return told

    def _begin(self, item: OutputItem) -> list[Told]:
        told = self._closed("completed")
        self.items.append(item)
        self._open = item
        return [*told, self._whole("added", item)]

    def _closed(self, status: ItemStatus) -> list[Told]:
        """The end of the open item."""
        item, told = self._open, list[Told]()
        if item is None:
            return told
        item.status = status
        if isinstance(item, FunctionCall):
            done = {**self._item(), "name": item.name, "arguments": item.arguments}
            told.append(("response.function_call_arguments.done", done))
        else:
            part = item.content[0]
            kind, more = "reasoning_text", dict[str, Any]()
            if isinstance(part, OutputText):
                kind, more = "output_text", {"logprobs": part.logprobs}
            done = {**self._place(), "text": part.text, **more}
            told += [(f"response.{kind}.done", done), self._part("done", part)]
        if isinstance(item, Reasoning) and self._sealed:
            item.encrypted_content = hidden(item.content[0].text)
        self._open = None
        return [*told, self._whole("done", item)]

    def _whole(self, what: str, item: OutputItem) -> Told:
        """An event with the item as it is now."""
        place = {"output_index": len(self.items) - 1, "item": msgspec.to_builtins(item)}
        return (f"response.output_item.{what}", place)

    def _part(self, what: str, part: OutputText | ReasoningText) -> Told:
        return (f"response.content_part.{what}", {**self._place(), "part": part})

    def _item(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open.id, "output_index": len(self.items) - 1}

    def _place(self) -> dict[str, Any]:
        return {**self._item(), "content_index": 0}


def output_of(job: Job, pieces: Pieces, *, sealed: bool) -> list[OutputItem]:
    """The items of an answer, or of what there is of it."""
    output = Output(job.id, pieces, sealed=sealed)
    for event in list(job.log.events):
        output.feed(event)
    return output.items
