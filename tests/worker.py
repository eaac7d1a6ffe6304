"""A whole worker driven from synchronous tests: its engine runs in a process of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from rbee_worker.config import Settings
from rbee_worker.session.client import EngineClient
from rbee_worker.types import End, Error, Request, Started, Token


class Answer:
    """Everything one request gave."""

    def __init__(self) -> None:
        self.started: Started | None = None
        self.end: End | None = None
        self.ids: list[int] = []
        self.text = ""
        self.logprobs: list[Any] = []


class Worker:
    """An engine in its own process, driven from synchronous tests."""

    def __init__(self, **settings: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = self.loop.run_until_complete(self._start(Settings(**settings)))
        self.count = 0

    async def _start(self, settings: Settings) -> EngineClient:
        client = await EngineClient.start(settings)
        await client.ready()
        return client

    def close(self) -> None:
        self.loop.run_until_complete(self.client.close())
        self.loop.close()

    def ask(self, prompt: str, **params: Any) -> Answer:
        return self.ask_all([(prompt, params)])[0]

    def chat(self, text: str, **params: Any) -> Answer:
        messages = ({"role": "user", "content": text},)
        return self.loop.run_until_complete(self._one(params, messages=messages, surface="chat"))

    def ask_all(self, jobs: list[tuple[str, dict[str, Any]]]) -> list[Answer]:
        async def together() -> list[Answer]:
            return await asyncio.gather(*(self._one(p, prompt=text) for text, p in jobs))

        return self.loop.run_until_complete(together())

    async def _one(self, params: dict[str, Any], **fields: Any) -> Answer:
        self.count += 1
        answer = Answer()
        request = Request(id=f"t{self.count}", params=params, **fields)
        async for event in self.client.generate(request):
            if isinstance(event, Started):
                answer.started = event
            elif isinstance(event, Token):
                answer.ids += event.ids
                answer.text += event.t
                answer.logprobs += event.logprobs or ()
            elif isinstance(event, End):
                answer.end = event
                answer.ids += event.ids
                answer.text += event.text
            assert not isinstance(event, Error)
        assert answer.end is not None
        return answer
