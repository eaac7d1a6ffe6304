"""`EngineClient`: what servers and commands know of the engine. Text in, events out; asyncio.

Ids belong to the engine, text to the client: it tokenizes, detokenizes, matches stop strings and
keeps every live request with its prompt and output apart. Never imports torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rbee_worker.config import Settings
from rbee_worker.engine.messages import Loading, Stats
from rbee_worker.errors import NotReady, WorkerError
from rbee_worker.model_info import Loss, ModelInfo, WorkerState
from rbee_worker.observe import narration
from rbee_worker.params import Rules
from rbee_worker.process.host import EngineHost, ProcessHost, ThreadHost
from rbee_worker.session.given import Given
from rbee_worker.session.kept_engine import KeptEngine
from rbee_worker.session.live_request import LiveRequest
from rbee_worker.session.live_requests import CancelRule, LiveRequests
from rbee_worker.session.observer import Observer
from rbee_worker.session.prepare import is_quick, prepare, prepare_again, rules_of
from rbee_worker.session.prepared import Prepared
from rbee_worker.session.startup import fingerprint
from rbee_worker.session.text import TextSide
from rbee_worker.session.text_shortcuts import TextShortcuts
from rbee_worker.session.vectors import check_purpose
from rbee_worker.types import End, Error, Event, Request

if TYPE_CHECKING:
    from rbee_worker.process.main import Loader

_CONFIRMED_S = 2.0  # seconds that an engine has to confirm the end of a request


class EngineClient(TextShortcuts):
    """One engine and its live requests. All methods belong to one event loop.

    adapters: those that requests can name.
    """

    def __init__(self, settings: Settings, host: EngineHost) -> None:
        self.settings = settings
        self._live = LiveRequests(settings.max_seqs + settings.max_queue)
        self._engine = KeptEngine(settings, host, self._live)
        self.adapters = self._engine.adapters

    @classmethod
    async def start(
        cls,
        settings: Settings,
        *,
        in_process: bool = False,
        on_loading: Callable[[Loading], None] | None = None,
        load: Loader | None = None,
        text: Callable[[], TextSide] | None = None,
    ) -> EngineClient:
        """Start loading and return at once; `ready` waits.

        in_process: the engine runs in a thread of this process (tests, small tools). load, text:
        stand-ins for the engine's loader (in-process only) and for the checkpoint's text side.
        """
        client = cls(settings, ThreadHost(load) if in_process else ProcessHost())
        client._engine.on_loading = on_loading
        client._engine.begin(text)
        return client

    async def ready(self) -> ModelInfo:
        """Wait until the engine can serve. Raises what kept it from loading."""
        return await self._engine.ready()

    # ---- how the engine is

    @property
    def state(self) -> WorkerState:
        """What `generate` does now."""
        return self._engine.state

    @property
    def info(self) -> ModelInfo | None:
        """The model, once ready."""
        return self._engine.info

    @property
    def loading(self) -> Loading:
        """How far loading is."""
        return self._engine.loading

    @property
    def stats(self) -> Stats | None:
        """The engine's latest figures."""
        return self._engine.stats

    @property
    def restarts(self) -> int:
        """How many engines were lost and replaced."""
        return self._engine.restarts

    @property
    def losses(self) -> Mapping[Loss, int]:
        """How many engines were lost, by what ended them."""
        return self._engine.losses

    @property
    def failure(self) -> WorkerError | None:
        """Why the state is "failed"."""
        return self._engine.failure

    @property
    def observer(self) -> Observer | None:
        """Who is told the times of steps."""
        return self._engine.observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._engine.observer = observer

    @property
    def text(self) -> TextSide:
        """Tokenizer, EOS set, template. Raises NotReady before they are read."""
        if self._engine.text is None:
            raise NotReady(self.state, f"Not ready: the engine is {self.state}.")
        return self._engine.text

    @property
    def rules(self) -> Rules:
        """What requests are held to. Raises NotReady before the model is known."""
        text = self.text
        assert self.info is not None
        return rules_of(text, self.info, self.settings)

    async def fingerprint(self) -> str:
        """A digest of the model and of how it is computed: answers that one engine began, another
        one with the same digest may go on with. Raises NotReady, OSError."""
        info = await self.ready()
        files, tower = self._engine.files, self.text.ckpt.tower
        return await asyncio.to_thread(fingerprint, self.settings, info, files, tower)

    # ---- requests

    async def generate(self, request: Request, after: Sequence[Event] = ()) -> AsyncIterator[Event]:
        """Events of one request: Started first, End or Error last.

        after: what an earlier process gave out of the answer, from Started on; the events that
        follow them come. The request then needs no prompt (Started has it) and is not refused for
        lack of room. Raises NotReady, QueueFull, WrongModel or InvalidRequest before the first
        event. Closing the iterator early cancels the sequence.
        """
        given = Given(after) if after else None
        if given is None:
            self._admit(request)
        else:
            self.adapters.check(request)
            self._live.reserve(request, accepted=True)
        adapter = self.adapters.hold(request)
        answer: LiveRequest | None = None
        timer: asyncio.TimerHandle | None = None
        try:
            if request.timeout_s is not None:
                loop = asyncio.get_running_loop()
                timer = loop.call_later(request.timeout_s, self._cancel, request.id, "TIMEOUT")
            prepared = replace(await self._prepare(request, given), adapter=adapter)
            ahead = self._live.unscheduled
            answer = self._live.enter(request, prepared, self.text, given)
            assert self.info is not None
            if given is None:
                yield answer.started(self.info)
            if ahead and not answer.scheduled:
                yield narration.queued(request.id, ahead)
            event: Event | None = None
            while not isinstance(event, End | Error):
                event = await answer.events.next()
                yield event
        finally:
            if timer is not None:
                timer.cancel()
            self._live.leave(request, answer)
            self.adapters.release(request)

    async def cancel(self, request_id: str, rule: CancelRule = "CANCELLED") -> None:
        """End a request; its `End` follows. One that is not live has ended: nothing happens."""
        self._cancel(request_id, rule)

    def _cancel(self, request_id: str, rule: CancelRule) -> None:
        """The engine confirms it, but nobody waits for one that is stopped or hangs in a step."""
        self._live.cancel(request_id, rule, waits=not self._engine.silent)
        asyncio.get_running_loop().call_later(_CONFIRMED_S, self._live.overdue, request_id)

    async def close(self) -> None:
        """End everything: live requests get an Error, the engine leaves."""
        await self._engine.close()

    def _admit(self, request: Request) -> None:
        """Before any work is spent on it. Raises NotReady, QueueFull, WrongModel,
        InvalidRequest."""
        self._engine.check_ready()
        assert self.info is not None
        check_purpose(request, self.info)
        self.adapters.check(request)
        self._live.reserve(request)

    async def _prepare(self, request: Request, given: Given | None = None) -> Prepared:
        if given is not None:
            return await asyncio.to_thread(
                prepare_again, request, given.started, self.text, self.rules
            )
        job = partial(prepare, request, self.text, self.rules)
        if is_quick(request, self.text):
            return job()
        prepared = await asyncio.to_thread(job)
        if self.state != "ready":  # it may have gone meanwhile
            raise NotReady(self.state, f"Not ready: the engine is {self.state}.")
        return prepared
