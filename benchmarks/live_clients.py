"""Clients of a worker that is being disturbed: each returns the whole answer to a request, or says
what was wrong with its events."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import httpx

PAUSE_S = 0.05  # before a request that was refused with 503 or 429 is sent again
Body = dict[str, Any]
Heard = Callable[[], None]


class Wrong(Exception):
    """Events were lost or doubled, or an answer ended with an error."""


class Clients:
    """heard: called when a token of a stream has come. dice: decides where connections are cut."""

    def __init__(
        self, http: httpx.AsyncClient, model: str, dice: random.Random, heard: Heard
    ) -> None:
        self.http, self.model = http, model
        self._dice, self._heard = dice, heard
        self.resumed = 0  # connections that were cut and resumed

    async def started(self, body: Body) -> str:
        """The id of a new job."""
        return str((await self.answer("/v1/jobs", body))["job_id"])

    async def job(self, body: Body, *, cuts: bool = False, pace_s: float = 0.0) -> Body:
        """A job by its stream. cuts: the connection is closed now and then, and the stream resumed
        after the last event that came. pace_s: the reader's pause after each event."""
        job = await self.started(body)
        return self.whole(await self.events_of(job, cuts=cuts, pace_s=pace_s))

    async def events_of(
        self, job: str, *, cuts: bool = False, pace_s: float = 0.0
    ) -> list[dict[str, Any]]:
        """Every event of a job in order; each must come exactly once."""
        events: list[dict[str, Any]] = []
        while not events or events[-1]["type"] not in ("end", "error"):
            headers = {"Last-Event-ID": str(len(events))} if events else {}
            left = self._dice.randint(1, 60) if cuts else 1 << 30
            stream = self.pieces("GET", f"/v1/jobs/{job}/stream", headers=headers)
            async with aclosing(stream):
                async for number, event in stream:
                    if number != len(events) + 1:
                        raise Wrong(f"event {number} after event {len(events)}")
                    events.append(event)
                    if event["type"] == "token":
                        self._heard()
                    left -= 1
                    if left <= 0 and event["type"] not in ("end", "error"):
                        self.resumed += 1
                        break
                    if pace_s:
                        await asyncio.sleep(pace_s)
        return events

    def whole(self, events: list[dict[str, Any]]) -> Body:
        """The answer that events make. Raises Wrong."""
        text, ids, place = "", [], 0
        for event in events:
            if event["type"] == "token":
                if event["i"] != place:
                    raise Wrong(f"token {event['i']} where {place} was next")
                place += len(event["ids"])
            if event["type"] in ("token", "end"):
                text += event["t"] if event["type"] == "token" else event["text"]
                ids += event["ids"]
        last = events[-1]
        if last["type"] == "error":
            raise Wrong(f"{last['code']}: {last['message']}")
        if last["tokens_out"] != len(ids):
            raise Wrong(f"{len(ids)} tokens came of {last['tokens_out']}")
        return {"text": text, "ids": ids, "stop": last["stop_reason"]}

    async def completions(self, body: Body) -> Body:
        """OpenAI's stream: the text of each choice."""
        texts: dict[str, str] = {}
        ends: dict[str, str] = {}
        sent = {**body, "model": self.model, "stream": True}
        async for _, event in self.pieces("POST", "/v1/completions", sent):
            if "error" in event:
                raise Wrong(str(event["error"]))
            for choice in event["choices"]:
                index = str(choice["index"])
                texts[index] = texts.get(index, "") + choice["text"]
                ends[index] = choice["finish_reason"] or ends.get(index, "")
                if choice["text"]:
                    self._heard()
        return {"texts": texts, "ends": ends}

    async def messages(self, body: Body) -> Body:
        """Anthropic's stream."""
        text, end = "", ""
        sent = {**body, "model": self.model, "stream": True}
        async for _, event in self.pieces("POST", "/v1/messages", sent):
            if event["type"] == "error":
                raise Wrong(str(event["error"]))
            if event["type"] == "content_block_delta":
                text += event["delta"].get("text", "")
            if event["type"] == "message_delta":
                end = event["delta"]["stop_reason"]
        return {"text": text, "end": end}

    async def answer(self, path: str, body: Body) -> Any:
        """The JSON of an answer that is not streamed."""
        while True:
            response = await self.http.post(path, json=body)
            if response.status_code not in (429, 503) or "ENGINE_LOST" in response.text:
                if response.is_error:
                    raise Wrong(f"{path}: {response.status_code} {response.text[:300]}")
                return response.json()
            await asyncio.sleep(PAUSE_S)

    async def pieces(
        self, method: str, path: str, body: Body | None = None, headers: Any = None
    ) -> AsyncGenerator[tuple[int, dict[str, Any]]]:
        """(id, data) of each event; 0 where it has no id."""
        while True:
            async with self.http.stream(method, path, json=body, headers=headers) as response:
                if response.status_code not in (429, 503):  # else nothing was begun
                    if response.is_error:
                        said = (await response.aread()).decode()[:300]
                        raise Wrong(f"{path}: {response.status_code} {said}")
                    number = 0
                    async for line in response.aiter_lines():
                        if line.startswith("id: "):
                            number = int(line.removeprefix("id: "))
                        if line.startswith("data: {"):
                            yield number, json.loads(line.removeprefix("data: "))
                    return
            await asyncio.sleep(PAUSE_S)
