"""`KeptEngine`: an engine that is started, watched, and replaced when it is lost.

The live requests and the adapters are told when engines come and go, and what they say. Never
imports torch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import msgspec

from rbee_worker.config import Settings
from rbee_worker.engine.messages import (
    AdapterLoaded,
    AdapterRefused,
    DraftsEnded,
    Loading,
    Output,
    Stats,
    StepTimes,
    Tokens,
)
from rbee_worker.errors import AdapterError, EngineLost, ModelError, NotReady, WorkerError
from rbee_worker.extras import explained
from rbee_worker.model_info import Loss, ModelInfo, WorkerState
from rbee_worker.process.host import EngineHost
from rbee_worker.session.adapters import LoadedAdapters
from rbee_worker.session.drafts import Drafts
from rbee_worker.session.live_request import CRASH, KILL
from rbee_worker.session.live_requests import LiveRequests
from rbee_worker.session.observer import Observer
from rbee_worker.session.replacing import Replacing
from rbee_worker.session.startup import Files, bring_back, bring_up
from rbee_worker.session.text import TextSide
from rbee_worker.session.watchdog import Watchdog

log = logging.getLogger(__name__)

_RETRY_S = 2


class KeptEngine:
    """One engine after another, for the requests of `live`. All methods belong to one event loop.

    host: where the engine runs that is there now. state: what a request can do now. info, text,
    files: the model, once it is known. loading: how far loading is. stats: the latest figures.
    restarts: engines that were lost and replaced. losses: engines that were lost, also while they
    loaded, by what ended them. failure: why it is "failed". observer: who is
    told times. adapters: those that are loaded.
    """

    def __init__(self, settings: Settings, host: EngineHost, live: LiveRequests) -> None:
        self.host = host
        self.state: WorkerState = "loading"
        self.info: ModelInfo | None = None
        self.text: TextSide | None = None
        self.files: Files | None = None
        self.loading = Loading(stage="opening")
        self.stats: Stats | None = None
        self.restarts = 0
        self.losses: Counter[Loss] = Counter()
        self.failure: WorkerError | None = None
        self.observer: Observer | None = None
        self.on_loading: Callable[[Loading], None] | None = None
        self.adapters = LoadedAdapters(settings, self.check_ready)
        self._drafts = Drafts()
        self._replacing = Replacing()
        self._settings = settings
        self._live = live
        self._watchdog = Watchdog(settings.step_timeout, self._silent)
        self._earlier: Stats | None = None  # counters of engines that were lost
        self._untold = 0  # tokens since the engine's latest figures
        self._task: asyncio.Task[None] | None = None
        self._up = asyncio.Event()  # ready or failed
        self._closing = False
        self._bytes = 0  # weights and state

    @property
    def silent(self) -> bool:
        """Whether the engine does not answer just now."""
        return self._watchdog.silent

    def begin(self, text: Callable[[], TextSide] | None = None) -> None:
        """Start loading, and keep an engine there from then on. text: a stand-in for the
        checkpoint's text side."""
        self._task = asyncio.create_task(self.run(text), name="engine-client")

    async def ready(self) -> ModelInfo:
        """Wait until an engine can serve. Raises what kept it from loading."""
        await self._up.wait()
        if self.failure is not None:
            raise self.failure
        assert self.info is not None
        return self.info

    def check_ready(self) -> None:
        """Raise NotReady unless there is an engine that serves."""
        if self.state != "ready":
            why = f": {self.failure.message}" if self.failure is not None else "."
            message = f"Not ready: the engine is {self.state}{why}"
            raise NotReady(self.state, message, retry_after_s=_RETRY_S)

    async def close(self) -> None:
        """End everything: live requests get an Error, the engine leaves."""
        self._closing = True
        if self.state != "failed":
            self.state = "draining"
        self._live.lose("the worker is shutting down.")
        await self.host.close(patient=self.info is not None and not self.silent)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self.text is not None:
            self.text.close()
        if not self._up.is_set():
            self._failed(NotReady("draining", "the engine was closed while it was loading."))

    # ---- from start to end

    async def run(self, text: Callable[[], TextSide] | None) -> None:
        """From start to the engine's end, whatever ends it."""
        try:
            self.info, self.text, self.files = await bring_up(
                self.host, self._settings, self._progress, self._drafts, text
            )
            self._bytes = self.info.weight_bytes + self.info.kv_bytes
            while not self._closing:
                self.state = "ready"
                self._replacing.ready()
                self.adapters.engine_ready(self.host.link, self.info.adapters)
                self._up.set()
                self._live.engine_ready(self.host.link)
                with self._watchdog.over(self.host, lambda: bool(self._live.by_seq)):
                    while (outputs := await self.host.link.receive()) is not None:
                        self._dispatch(outputs)
                lost = EngineLost(f"the engine is gone: {await self.host.last_words()}.")
                if self._closing:
                    raise lost
                await self._replace(lost)
        except Exception as error:  # a mistake of ours must not leave callers waiting
            known = explained(error)
            if known is None:
                log.exception("the client failed")
                known = EngineLost(f"the client failed: {type(error).__name__}: {error}")
            if self.info is not None and known.exit_code == ModelError.exit_code:
                # It was loaded once. Whatever kept it from being loaded again, a program that is
                # started anew may load it, and says by itself if there is nothing to be done.
                known.exit_code = EngineLost.exit_code
            self._failed(known)

    async def _replace(self, lost: WorkerError) -> None:
        """Start another engine in the place of the one that is gone, as often as it takes. Raises
        `lost`, or what keeps the model from being loaded again, when that is given up."""
        text, before = self.text, self.info
        assert text is not None
        assert before is not None
        if self.stats is not None:
            drawn, self._untold = self.stats.tokens_out + self._untold, 0
            self._earlier = msgspec.structs.replace(self.stats, tokens_out=drawn)
            self.stats = msgspec.structs.replace(
                self._earlier, waiting=0, running=0, kv_used_blocks=0
            )
        while (successor := self.host.successor()) is not None:
            counts = KILL if self.host.killed_by_others else CRASH
            loss = self.host.loss
            self.losses[loss] += 1
            known = self._live.culprit_known(counts)
            pause_s = self._replacing.pause_s(counts, culprit_known=known)
            if pause_s is None:
                if type(lost) is EngineLost:
                    why = f"{self._replacing.in_row} engines in a row made no token"
                    lost = EngineLost(f"{why}; {lost.message}")
                break
            self.state = "restarting"
            self._progress(Loading(stage="opening"))
            log.error("%s Starting another engine. (%s)", lost.message, loss)
            self._live.engine_lost(lost.message.rstrip("."), counts)
            self.adapters.engine_lost()
            await self.host.close(patient=False)
            await asyncio.sleep(pause_s)
            self.host = successor
            like = (text, before, self.files)
            heard = self._watchdog.heard
            try:
                settings = await self._next_settings()
                with self._watchdog.over_loading(successor):
                    info = await bring_back(successor, settings, *like, self._progress, heard)
            except WorkerError as error:
                lost = self._endured(error)
            except OSError as error:  # no process can be started just now
                lost = EngineLost(f"no engine can be started: {error.strerror or error}.")
            else:
                self.info = self._drafts.told(info)
                self.restarts += 1
                return
        raise lost

    async def _next_settings(self) -> Settings:
        """The settings of the engine that takes the place of a lost one."""
        drafting = not self._drafts.lost
        settings = await asyncio.to_thread(self._drafts.settings, self.adapters.settings())
        if drafting and self._drafts.lost:
            self._live.drafts_ended(self._drafts.lost)
        return settings

    def _endured(self, error: WorkerError) -> WorkerError:
        """What kept an engine from loading, if the next one may load: without what cannot be used
        any more, or because there is more memory. Otherwise raises it."""
        if error.of_draft:
            self._drafts.give_up(error.said)
            self._live.drafts_ended(self._drafts.lost)
        elif isinstance(error, AdapterError):
            self.adapters.drop_damaged(error.message)
        elif type(error) is not ModelError:  # the model is no longer what it was
            raise error
        return error

    def _dispatch(self, outputs: list[Output]) -> None:
        """One step's messages. Every token takes this path."""
        start_us = time.monotonic() * 1e6
        self._watchdog.heard(outputs)
        told = False
        for m in outputs:
            if isinstance(m, Tokens):
                self._untold += len(m.ids)
            elif isinstance(m, Stats):
                self.stats, self._untold, told = m.after(self._earlier), 0, True
            elif isinstance(m, StepTimes) and self.observer is not None:
                self.observer.step(m)
            elif isinstance(m, AdapterLoaded | AdapterRefused):
                self.adapters.heard(m)
            elif isinstance(m, DraftsEnded):
                self._drafts_ended(m)
        if self._live.dispatch(outputs, self._bytes, self._kv_usage()):
            self._replacing.useful()
        if told:
            self._live.figures_told()
        if self.observer is not None:
            drawn = sum(len(m.ids) for m in outputs if isinstance(m, Tokens))
            self.observer.detokenized(start_us, drawn)

    def _drafts_ended(self, m: DraftsEnded) -> None:
        assert self.info is not None
        self._drafts.fail(m.why)
        self.info = self._drafts.told(self.info)
        self._live.drafts_ended(self._drafts.lost)

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
        if self.on_loading is not None:
            self.on_loading(loading)

    def _failed(self, error: WorkerError) -> None:
        """No engine any more, or none yet: every live request hears of it."""
        if self._closing:
            error = NotReady("draining", "the worker is shutting down.")
        else:
            self.state = "failed"
        self.failure = self.failure or error
        self._live.lose(error.message)
        self.adapters.engine_lost()
        self._up.set()
