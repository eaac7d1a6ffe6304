"""A stand-in for `EngineClient`: a script of events in place of a model."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, Literal

from rbee_worker.answer_parts import CallPiece
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Loading
from rbee_worker.errors import WorkerError
from rbee_worker.model_info import ModelInfo
from rbee_worker.params import Rules
from rbee_worker.sequence_end import StopRecord, Usage
from rbee_worker.types import (
    End,
    Event,
    Narration,
    Request,
    Resolved,
    SamplingParams,
    Started,
    Token,
)

INFO = ModelInfo(
    model="fake",
    arch="llama",
    device="cpu",
    backend="reference",
    dtype="f32",
    kv_dtype="f32",
    context=512,
    vocab_size=64,
    kv_tokens=512,
    block_size=16,
    weight_bytes=1,
    kv_bytes=1,
    n_layers=1,
    n_parameters=1,
)


def usage(tokens: int) -> Usage:
    return Usage(
        prompt_tokens=9,
        cached_tokens=4,
        output_tokens=tokens,
        queue_ms=1.5,
        prefill_ms=250.0,
        decode_ms=1000.0,
    )


def started(request: Request) -> Started:
    params = SamplingParams(temperature=0.5, seed=7)
    resolved = Resolved(params=params, origins={"temperature": "request", "seed": "default"})
    return Started(
        job_id=request.id,
        model="fake",
        started_at="2026-01-01T00:00:00Z",
        prompt_tokens=9,
        seed=7,
        sampling=resolved,
    )


class FakeClient:
    """Says its words one by one; with `endless`, the last again and again until cancelled.

    ctrl_c: presses it, once: "loading" while it then loads for ever, or "answer" after two words.
    """

    def __init__(
        self,
        words: tuple[str, ...] = ("Par", "is", "."),
        *,
        endless: bool = False,
        refuses: WorkerError | None = None,
        fails: WorkerError | None = None,
        chat: bool = True,
        ctrl_c: Literal["", "loading", "answer"] = "",
        thought: str = "",
        call: str = "",
    ) -> None:
        self.thought, self.call = thought, call
        self.ctrl_c = ctrl_c
        self.words, self.endless, self.refuses, self.fails = words, endless, refuses, fails
        self.requests: list[Request] = []
        self.settings: list[Settings] = []
        self.cancelled: list[str] = []
        self.closed = 0
        self.info = INFO
        self.rules = Rules(context=INFO.context, vocab_size=INFO.vocab_size)
        self.chat = object() if chat else None
        self.ckpt = SimpleNamespace(ref="fake")

    async def start(
        self, settings: Settings, *, on_loading: Callable[[Loading], None], text: None = None
    ) -> FakeClient:
        """Stands for the class method: the fake is the class and its only instance."""
        self.settings.append(settings)
        on_loading(Loading(stage="loading", layers_loaded=1, layers_total=2))
        return self

    async def ready(self) -> ModelInfo:
        if self.ctrl_c == "loading":
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails
        return INFO

    async def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    async def close(self) -> None:
        self.closed += 1

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        if self.refuses is not None:
            raise self.refuses
        self.requests.append(request)
        yield started(request)
        yield Narration(actor="scheduler", action="queued", target="j", human="Next in line.")
        made = 0
        if self.thought:
            yield Token(t="", i=-1, ids=(), reasoning=self.thought)
        for word in self._words():
            if request.id in self.cancelled:
                stop = StopRecord(rule="CANCELLED", at=made)
                yield End(stop=stop, usage=usage(made))
                return
            yield Token(t=word, i=made, ids=(made,))
            made += 1
            if self.ctrl_c == "answer" and made == 2:
                os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.01 if self.endless else 0)
        stop = StopRecord(rule="EOS", at=made, token_id=2, token_text="</s>", origin="config.json")
        calls = (CallPiece(index=0, id="call_1", name=self.call, arguments="{}"),)
        yield End(stop=stop, usage=usage(made + 1), ids=(2,), calls=calls if self.call else ())

    def _words(self) -> Any:
        yield from self.words
        while self.endless:
            yield self.words[-1]
