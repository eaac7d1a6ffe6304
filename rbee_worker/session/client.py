"""`EngineClient`: what servers and commands know of the engine. Text in, events out; asyncio.

Ids belong to the engine, text to the client: it tokenizes, detokenizes, matches stop strings and
keeps every live request with its prompt and output apart. Never imports torch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from rbee_worker.adapter_spec import AdapterSpec
from rbee_worker.config import Settings
from rbee_worker.engine.messages import (
    AdapterLoaded,
    AdapterRefused,
    Loading,
    Output,
    Stats,
    StepTimes,
    Tokens,
)
from rbee_worker.errors import AdapterError, EngineLost, ModelError, NotReady, WorkerError
from rbee_worker.extras import explained
from rbee_worker.observe import narration
from rbee_worker.params import Rules
from rbee_worker.process.host import EngineHost, ProcessHost, ThreadHost
from rbee_worker.session.adapters import LoadedAdapters
from rbee_worker.session.given import Given
from rbee_worker.session.live_request import CRASH, KILL, LiveRequest
from rbee_worker.session.live_requests import CancelRule, LiveRequests
from rbee_worker.session.observer import Observer
from rbee_worker.session.prepare import is_quick, prepare, prepare_again, rules_of
from rbee_worker.session.prepared import Prepared
from rbee_worker.session.replacing import Replacing
from rbee_worker.session.startup import Files, bring_back, bring_up, fingerprint
from rbee_worker.session.text import TextSide, TextStream
from rbee_worker.session.vectors import check_purpose
from rbee_worker.session.watchdog import Watchdog
from rbee_worker.types import (
    AdapterInfo,
    End,
    EosToken,
    Error,
    Event,
    ModelInfo,
    Request,
    WorkerState,
)

if TYPE_CHECKING:
    from rbee_worker.checkpoint import Checkpoint
    from rbee_worker.checkpoint.sentence import Sentence
    from rbee_worker.pictures.side import PictureSide
    from rbee_worker.process.main import Loader
    from rbee_worker.tokenizer.chat import ChatRenderer
    from rbee_worker.tokenizer.core import Tokenizer

log = logging.getLogger(__name__)

_RETRY_S = 2
_CONFIRMED_S = 2.0  # seconds that an engine has to confirm the end of a request


class EngineClient:
    """One engine and its live requests. All methods belong to one event loop.

    state: what `generate` does now. info: the model, once ready. loading: how far loading is.
    stats: the engine's latest figures. restarts: engines that were lost and replaced. observer: who
    is told times. failure: why it is "failed".
    """

    def __init__(self, settings: Settings, host: EngineHost) -> None:
        self.settings = settings
        self.state: WorkerState = "loading"
        self.info: ModelInfo | None = None
        self.loading = Loading(stage="opening")
        self.stats: Stats | None = None
        self.restarts = 0
        self.failure: WorkerError | None = None
        self.observer: Observer | None = None
        self._host = host
        self._on_loading: Callable[[Loading], None] | None = None
        self._text: TextSide | None = None
        self._files: Files | None = None
        self._live = LiveRequests(settings.max_seqs + settings.max_queue)
        self._adapters = LoadedAdapters(settings)
        self._replacing = Replacing()
        self._watchdog = Watchdog(settings.step_timeout, self._silent)
        self._earlier: Stats | None = None  # counters of engines that were lost
        self._task: asyncio.Task[None] | None = None
        self._up = asyncio.Event()  # ready or failed
        self._closing = False
        self._bytes = 0  # weights and state

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
        client._on_loading = on_loading
        client._task = asyncio.create_task(client._run(text), name="engine-client")
        return client

    async def ready(self) -> ModelInfo:
        """Wait until the engine can serve. Raises what kept it from loading."""
        await self._up.wait()
        if self.failure is not None:
            raise self.failure
        assert self.info is not None
        return self.info

    # ---- the model's words

    @property
    def text(self) -> TextSide:
        """Tokenizer, EOS set, template. Raises NotReady before they are read."""
        if self._text is None:
            raise NotReady(self.state, f"Not ready: the engine is {self.state}.")
        return self._text

    @property
    def tokenizer(self) -> Tokenizer:
        return self.text.tokenizer

    def stream(self, *, skip_special: bool) -> TextStream:
        """A new stream that makes text of ids, as answers do."""
        return self.text.stream(skip_special)

    @property
    def ckpt(self) -> Checkpoint:
        return self.text.ckpt

    @property
    def eos(self) -> tuple[EosToken, ...]:
        return self.text.eos

    @property
    def chat(self) -> ChatRenderer | None:
        return self.text.chat

    def renderer(self, *, tools: bool) -> ChatRenderer | None:
        """The chat template for a conversation with tools, or without."""
        return self.text.renderer(tools=tools)

    @property
    def pictures(self) -> PictureSide | None:
        """How the model takes pictures; None if it takes none."""
        return self.text.pictures

    @property
    def sentence(self) -> Sentence:
        """What the model's files say about making vectors."""
        return self.text.ckpt.sentence

    @property
    def rules(self) -> Rules:
        """What requests are held to. Raises NotReady before the model is known."""
        text = self.text
        assert self.info is not None
        return rules_of(text, self.info, self.settings)

    # ---- adapters

    @property
    def adapters(self) -> tuple[AdapterInfo, ...]:
        """The adapters that requests can name."""
        return self._adapters.infos

    @property
    def adapter_slots(self) -> int:
        """How many adapters can be loaded together."""
        return self._adapters.most

    async def load_adapter(self, spec: AdapterSpec) -> AdapterInfo:
        """Load an adapter, fetched first if it is remote. Raises AdapterError, BadReference,
        CheckpointError, NotReady, EngineLost."""
        self._check_ready()
        from rbee_worker.adapters import local_spec  # late: few workers load any

        local = await asyncio.to_thread(local_spec, spec, self.settings.cache_dir)
        return await self._adapters.load(local)

    def unload_adapter(self, name: str) -> AdapterInfo:
        """Unload an adapter that no request uses. Raises AdapterError, NotReady."""
        self._check_ready()
        return self._adapters.unload(name)

    async def fingerprint(self) -> str:
        """A digest of the model and of how it is computed: answers that one engine began, another
        one with the same digest may go on with. Raises NotReady, OSError."""
        return await asyncio.to_thread(fingerprint, self.settings, await self.ready(), self._files)

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
            self._adapters.check(request)
            self._live.reserve(request, accepted=True)
        adapter = self._adapters.hold(request)
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
            self._adapters.release(request)

    async def cancel(self, request_id: str, rule: CancelRule = "CANCELLED") -> None:
        """End a request; its `End` follows. One that is not live has ended: nothing happens."""
        self._cancel(request_id, rule)

    def _cancel(self, request_id: str, rule: CancelRule) -> None:
        """The engine confirms it, but nobody waits for one that is stopped or hangs in a step."""
        self._live.cancel(request_id, rule, waits=not self._watchdog.silent)
        asyncio.get_running_loop().call_later(_CONFIRMED_S, self._live.overdue, request_id)

    async def close(self) -> None:
        """End everything: live requests get an Error, the engine leaves."""
        self._closing = True
        if self.state != "failed":
            self.state = "draining"
        self._live.lose("the worker is shutting down.")
        await self._host.close(patient=self.info is not None and not self._watchdog.silent)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._text is not None:
            self._text.close()
        if not self._up.is_set():
            self._failed(NotReady("draining", "the engine was closed while it was loading."))

    def _admit(self, request: Request) -> None:
        """Before any work is spent on it. Raises NotReady, QueueFull, WrongModel,
        InvalidRequest."""
        self._check_ready()
        assert self.info is not None
        check_purpose(request, self.info)
        self._adapters.check(request)
        self._live.reserve(request)

    def _check_ready(self) -> None:
        """Raise NotReady unless there is an engine that serves."""
        if self.state != "ready":
            why = f": {self.failure.message}" if self.failure is not None else "."
            message = f"Not ready: the engine is {self.state}{why}"
            raise NotReady(self.state, message, retry_after_s=_RETRY_S)

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

    # ---- the engine

    async def _run(self, text: Callable[[], TextSide] | None) -> None:
        """From start to the engine's end, whatever ends it."""
        try:
            self.info, self._text, self._files = await bring_up(
                self._host, self.settings, self._progress, text
            )
            self._bytes = self.info.weight_bytes + self.info.kv_bytes
            while not self._closing:
                self.state = "ready"
                self._replacing.ready()
                self._adapters.engine_ready(self._host.link, self.info.adapters)
                self._up.set()
                self._live.engine_ready(self._host.link)
                with self._watchdog.over(self._host, lambda: bool(self._live.by_seq)):
                    while (outputs := await self._host.link.receive()) is not None:
                        self._dispatch(outputs)
                lost = EngineLost(f"the engine is gone: {await self._host.last_words()}.")
                if self._closing:
                    raise lost
                await self._replace(lost)
        except Exception as error:  # a mistake of ours must not leave callers waiting
            known = explained(error)
            if known is None:
                log.exception("the client failed")
                known = EngineLost(f"the client failed: {type(error).__name__}: {error}")
            self._failed(known)

    async def _replace(self, lost: WorkerError) -> None:
        """Start another engine in the place of the one that is gone, as often as it takes. Raises
        `lost`, or what keeps the model from being loaded again, when that is given up."""
        before = self.info
        assert before is not None
        if self.stats is not None:
            self._earlier = self.stats
            self.stats = msgspec.structs.replace(self.stats, waiting=0, running=0, kv_used_blocks=0)
        while (successor := self._host.successor()) is not None:
            counts = KILL if self._host.killed_by_others else CRASH
            known = self._live.culprit_known(counts)
            pause_s = self._replacing.pause_s(counts, culprit_known=known)
            if pause_s is None:
                break
            self.state = "restarting"
            self._progress(Loading(stage="opening"))
            log.error("%s Starting another engine.", lost.message)
            self._live.engine_lost(lost.message.rstrip("."), counts)
            self._adapters.engine_lost()
            await self._host.close(patient=False)
            await asyncio.sleep(pause_s)
            self._host = successor
            like = (self.text, before, self._files)
            heard = self._watchdog.heard
            try:
                settings = self._adapters.settings()
                with self._watchdog.over_loading(successor):
                    self.info = await bring_back(successor, settings, *like, self._progress, heard)
            except AdapterError as error:
                self._adapters.drop_damaged(error.message)
                lost = error
            except ModelError as error:
                if type(error) is not ModelError:  # the model is no longer what it was
                    raise
                lost = error
            except OSError as error:  # no process can be started just now
                lost = EngineLost(f"no engine can be started: {error.strerror or error}.")
            else:
                self.restarts += 1
                return
        raise lost

    def _dispatch(self, outputs: list[Output]) -> None:
        """One step's messages. Every token takes this path."""
        start_us = time.monotonic() * 1e6
        self._watchdog.heard(outputs)
        for m in outputs:
            if isinstance(m, Stats):
                self.stats = m.after(self._earlier)
            elif isinstance(m, StepTimes) and self.observer is not None:
                self.observer.step(m)
            elif isinstance(m, AdapterLoaded | AdapterRefused):
                self._adapters.heard(m)
        if self._live.dispatch(outputs, self._bytes, self._kv_usage()):
            self._replacing.useful()
        if self.observer is not None:
            drawn = sum(len(m.ids) for m in outputs if isinstance(m, Tokens))
            self.observer.detokenized(start_us, drawn)

    def _silent(self, silent: bool) -> None:
        """The engine does not answer, or does again. Nothing is lost meanwhile."""
        if silent and self.state == "ready":
            self.state = "stalled"
            self._live.engine_silent()
            log.warning("the engine does not answer")
        elif not silent and self.state == "stalled":
            self.state = "ready"

    def _kv_usage(self) -> float:
        stats = self.stats
        return stats.kv_used_blocks / max(stats.kv_total_blocks, 1) if stats is not None else 0.0

    def _progress(self, loading: Loading) -> None:
        self.loading = loading
        if self._on_loading is not None:
            self._on_loading(loading)

    def _failed(self, error: WorkerError) -> None:
        """No engine any more, or none yet: every live request hears of it."""
        if self._closing:
            error = NotReady("draining", "the worker is shutting down.")
        else:
            self.state = "failed"
        self.failure = self.failure or error
        self._live.lose(error.message)
        self._adapters.engine_lost()
        self._up.set()
