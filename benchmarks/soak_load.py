"""The mixed load of `benchmarks.soak`: kinds of requests, each checked against its answer alone."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.live_clients import Body, Clients, Wrong
from benchmarks.live_worker import LiveWorker

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"enum": [1, 22, 333]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
LONG = {"max_tokens": 60, "ignore_eos": True}
AGAIN = "one two three four five six seven eight nine ten. " * 6  # drafts have something to repeat
ADAPTER = "soak-adapter"  # the name that requests ask for it by
BODIES: dict[str, list[Body]] = {
    "job": [
        {"prompt": "Once upon a time", "temperature": 0, **LONG},
        {"prompt": "Bees make honey because", "seed": 1, "repetition_penalty": 1.2, **LONG},
        {"prompt": AGAIN, "temperature": 0, **LONG},
        {"prompt": "A list:", "seed": 2, "stop": ["\n\n"], "max_tokens": 60},
    ],
    "constrained": [
        {"prompt": "A person:", "seed": 3, "json_schema": SCHEMA, "max_tokens": 60},
        {"prompt": "A date:", "seed": 4, "regex": r"\d{4}-\d{2}-\d{2}", "max_tokens": 30},
    ],
    "adapter": [
        {"prompt": "Once upon a time", "temperature": 0, "model": ADAPTER, **LONG},
        {"prompt": "The sea is", "seed": 8, "model": ADAPTER, **LONG},
    ],
    "completions": [
        {"prompt": "The capital of France is", "temperature": 0, **LONG},
        {"prompt": "The sea is", "seed": 5, "n": 2, "temperature": 0.9, **LONG},
    ],
    "messages": [{"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 30}],
    "infer": [
        {"prompt": "Once", "seed": 6, "logprobs": 2, "max_tokens": 20},
        {"messages": [{"role": "user", "content": "Why?"}], "seed": 7, "max_tokens": 20},
    ],
    "embeddings": [{"input": ["a bee", "the sea"]}],
}
BAD: list[tuple[str, Body]] = [
    ("/v1/jobs", {"prompt": "x", "max_tokens": 0}),
    ("/v1/jobs", {"prompt": "x", "no_such_parameter": 1}),
    ("/v1/jobs", {"prompt": "x", "json_schema": {"type": "nothing"}}),
    ("/v1/jobs", {"prompt": "x", "regex": "("}),
    ("/v1/completions", {"prompt": "x", "temperature": 9}),
    ("/v1/chat/completions", {"messages": [{"role": "nobody", "content": "x"}]}),
    ("/v1/messages", {"messages": [], "max_tokens": 5}),
    ("/v1/infer", {"prompt": "word " * 20000}),
]
# A prompt that nobody has sent before is longer than a step, so that whatever a step needs has its
# full size soon, and the cache is small, so that 20 such prompts have filled all of it.
NEW_WORDS, WORDS = 600, ("bee", "sea", "red", "one", "day", "sun", "hat", "sky", "run", "old")
CACHE_TOKENS = 4096
JOBS = ("job", "adapter", "constrained")  # kinds that are asked for through the job API
# How many clients send each kind; those of the last row do more than ask and compare.
CLIENTS = {
    "job": 2, "adapter": 1, "constrained": 1, "completions": 2, "messages": 1, "infer": 1,
    "embeddings": 1, "new": 1,
    "slow": 1, "cancelled": 1, "left": 1, "bad": 1,
}  # fmt: skip
ENDS = ("400", "cancelled in time")  # what must come of nonsense and of cancelling
PAUSE_S = {"bad": 1.0, "new": 4.0}  # of a client between two requests, at most; of all others:
SHORT_S = 0.3
SLOW_S = 0.15  # of a slow reader after each event
ALIKE = ("text", "token_ids", "logprobs", "stop_reason", "data")  # what two answers have in common


@dataclass
class Checked:
    """counts: answers by kind; jobs: those of them that a worker keeps; wrong: what was not as it
    must be, in words."""

    counts: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    wrong: list[str] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter)  # refusals and ends that were asked for

    def fault(self, kind: str, what: str) -> None:
        self.wrong.append(f"{kind}: {what}"[:400])


class Load:
    """Clients that ask without end until `over`."""

    def __init__(self, worker: LiveWorker, model: str, dice: random.Random) -> None:
        self.worker = worker
        self.clients = Clients(worker.http, model, dice, lambda: None)
        self.checked = Checked()
        self.over = False
        self._dice = dice
        self._alone: dict[str, list[Any]] = {}
        self._grammars = 0  # that were made so far

    async def prepare(self) -> None:
        """The answer to each body, alone."""
        for kind, bodies in BODIES.items():
            self._alone[kind] = [await self._asked(kind, body) for body in bodies]
        if self._alone["adapter"][0] == self._alone["job"][0]:
            self.checked.fault("adapter", "it changes no answer")

    async def again(self) -> None:
        """Every body once more, one after another, compared: whatever process a kind needs is there
        afterwards."""
        for kind, bodies in BODIES.items():
            for n, body in enumerate(bodies):
                self._same(kind, n, await self._asked(kind, body))

    def tasks(self) -> list[asyncio.Task[None]]:
        """All clients."""
        return [
            asyncio.create_task(self._client(kind), name=f"{kind} {n}")
            for kind, count in CLIENTS.items()
            for n in range(count)
        ]

    def begin(self) -> None:
        """Count from zero; what was wrong before stays."""
        self.checked = Checked(wrong=self.checked.wrong)
        self.clients.resumed = 0

    def missing(self) -> list[str]:
        """What has not happened yet."""
        found = [kind for kind in CLIENTS if not self.checked.counts[kind]]
        found += [end for end in ENDS if not self.checked.told[end]]
        return found + ([] if self.clients.resumed else ["streams resumed"])

    async def _client(self, kind: str) -> None:
        special: dict[str, Callable[[], Awaitable[None]]] = {
            "slow": self._slow,
            "cancelled": self._cancelled,
            "left": self._left,
            "new": self._new,
            "bad": self._bad,
        }
        while not self.over:
            try:
                await (special[kind]() if kind in special else self._compared(kind))
                self.checked.counts[kind] += 1
            except (Wrong, httpx.HTTPError, OSError, KeyError, ValueError) as fault:
                self.checked.fault(kind, f"{type(fault).__name__}: {fault}")
                self.worker.children()  # raises if the worker has ended
            await asyncio.sleep(PAUSE_S.get(kind, SHORT_S) * self._dice.random())

    async def _asked(self, kind: str, body: Body, *, cuts: bool = False) -> Any:
        if kind in JOBS:
            self.checked.jobs += 1
            return await self.clients.job(self._renewed(body), cuts=cuts)
        if kind == "completions":
            return await self.clients.completions(body)
        if kind == "messages":
            return await self.clients.messages({**body, "temperature": 0})
        found = await self.clients.answer(f"/v1/{kind}", body)
        return {key: value for key, value in found.items() if key in ALIKE}

    def _renewed(self, body: Body) -> Body:
        """A schema says something new each time that means nothing: it is compiled again."""
        if "json_schema" not in body:
            return body
        self._grammars += 1
        return {**body, "json_schema": {**SCHEMA, "title": f"number {self._grammars}"}}

    async def _compared(self, kind: str) -> None:
        n = self._dice.randrange(len(BODIES[kind]))
        found = await self._asked(kind, BODIES[kind][n], cuts=self._dice.random() < 0.5)
        self._same(kind, n, found)

    def _same(self, kind: str, n: int, found: Any) -> None:
        if found != self._alone[kind][n]:
            self.checked.fault(
                kind, f"{str(found)[:150]} and not {str(self._alone[kind][n])[:150]}"
            )

    async def _slow(self) -> None:
        """A reader that is slow, and reads the finished job once more."""
        n = self._dice.randrange(len(BODIES["job"]))
        self.checked.jobs += 1
        job = await self.clients.started(BODIES["job"][n])
        events = await self.clients.events_of(job, pace_s=SLOW_S)
        self._same("job", n, self.clients.whole(events))
        if await self.clients.events_of(job, cuts=True) != events:
            self.checked.fault("slow", "a finished job has other events")

    async def _cancelled(self) -> None:
        """A job that is cancelled: what came of it is the beginning of its answer."""
        n = self._dice.randrange(2)
        self.checked.jobs += 1
        job = await self.clients.started(BODIES["job"][n])
        await asyncio.sleep(self._dice.random() * 2 * (self._dice.random() < 0.5))
        await self.worker.http.delete(f"/v1/jobs/{job}")
        found = self.clients.whole(await self.clients.events_of(job))
        whole = self._alone["job"][n]
        if found["ids"] != whole["ids"][: len(found["ids"])]:
            self.checked.fault("cancelled", "other tokens than those of the whole answer")
        if found["stop"] == "CANCELLED":
            self.checked.told["cancelled in time"] += 1
        elif found != whole:
            self.checked.fault("cancelled", f"ended with {found['stop']}")

    async def _left(self) -> None:
        """A client that leaves in the middle, without a word, or in the middle of its request."""
        url = urlsplit(self.worker.url)
        if self._dice.random() < 0.3:
            with socket.create_connection((url.hostname, url.port)) as line:
                line.sendall(
                    b"POST /v1/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
                )
            return
        body = BODIES["completions"][self._dice.randrange(2)] | {"model": self.clients.model}
        stream = self.clients.pieces("POST", "/v1/completions", {**body, "stream": True})
        async with aclosing(stream):
            async for _ in stream:
                if self._dice.random() < 0.1:
                    break

    async def _new(self) -> None:
        """A prompt that nobody has sent before, and at once again: the cache has it then."""
        prompt = " ".join(self._dice.choices(WORDS, k=NEW_WORDS))
        body = {"prompt": prompt, "temperature": 0, "max_tokens": 4, "ignore_eos": True}
        first, again = [await self._asked("infer", body) for _ in range(2)]
        if first != again:
            self.checked.fault("new", f"{str(first)[:150]} and then {str(again)[:150]}")

    async def _bad(self) -> None:
        path, body = BAD[self._dice.randrange(len(BAD))]
        if path.startswith(("/v1/co", "/v1/me", "/v1/ch")):
            body = body | {"model": self.clients.model}
        response = await self.worker.http.post(path, json=body)
        self.checked.told[str(response.status_code)] += 1
        if response.status_code not in (400, 429, 503):
            self.checked.fault("bad", f"{path} answered {response.status_code}")
        elif "error" not in response.json():
            self.checked.fault("bad", f"{path} gave no reason")
