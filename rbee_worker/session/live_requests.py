"""`LiveRequests`: every request that has not ended, and which of them the engine has.

An engine may be lost at any time. The requests stay: each keeps its prompt and the ids it has
received, which is all that another engine needs to go on with it, to the same tokens.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Literal

from rbee_worker.engine.messages import (
    Cancel,
    Finished,
    Pooled,
    Preempted,
    PromptScores,
    Rescaled,
    Scheduled,
    Submit,
    Tokens,
)
from rbee_worker.errors import FieldError, InvalidRequest, QueueFull
from rbee_worker.process.link import Link
from rbee_worker.sequence_end import Rule
from rbee_worker.session.given import Given
from rbee_worker.session.live_request import BLAMED, CRASH, LiveRequest
from rbee_worker.session.prepared import Prepared
from rbee_worker.session.text import TextSide
from rbee_worker.types import Request

OfSequence = Tokens | Finished | Scheduled | Preempted | Rescaled | PromptScores | Pooled
CancelRule = Literal["CANCELLED", "TIMEOUT", "STOP_SEQUENCE"]
SUSPECT = 2 * CRASH  # what lost engines count for a request that then runs alone


class LiveRequests:
    """Requests by the caller's name (`by_id`; None while they are prepared) and by the engine's
    (`by_seq`). cancelled: requests that were cancelled while they were prepared."""

    def __init__(self, most: int) -> None:
        """most: requests that may be live together."""
        self.by_id: dict[str, LiveRequest | None] = {}
        self.by_seq: dict[str, LiveRequest] = {}
        self.cancelled: dict[str, CancelRule] = {}
        self._most = most
        self._numbers = itertools.count(1)
        self._link: Link | None = None  # None: there is no engine
        self._told: Link | None = None  # the link whose engine knows the vocabulary
        self._alone: LiveRequest | None = None  # a suspect; all others wait until it is cleared

    @property
    def unscheduled(self) -> int:
        """Requests that wait for the engine to begin with them."""
        return sum(not live.scheduled for live in self.by_seq.values())

    def reserve(self, request: Request, *, accepted: bool = False) -> None:
        """Make room for a request. accepted: by an earlier process, so there is room. Raises
        QueueFull, InvalidRequest for a name that is taken."""
        if len(self.by_id) >= self._most and not accepted:
            raise QueueFull(f"{len(self.by_id)} requests are running or waiting already.")
        if request.id in self.by_id:
            message = f"a request named {request.id!r} is live"
            raise InvalidRequest([FieldError("id", "unique", message)])
        self.by_id[request.id] = None

    def enter(
        self, request: Request, prepared: Prepared, text: TextSide, given: Given | None = None
    ) -> LiveRequest:
        """Hand a reserved request to the engine. given: what an earlier process gave out of it."""
        live = LiveRequest(request, f"{next(self._numbers)}/{request.id}", prepared, text, given)
        self.by_id[request.id] = live
        rule = self.cancelled.pop(request.id, None)
        if rule is not None:
            live.end_here(rule)
        else:
            self.by_seq[live.seq] = live
            if self._alone is None:
                self._submit(live)
        return live

    def leave(self, request: Request, live: LiveRequest | None) -> None:
        """The caller has the last event, or wants no more."""
        del self.by_id[request.id]
        self.cancelled.pop(request.id, None)
        if live is not None and not live.ended:
            del self.by_seq[live.seq]
            self._send(live, Cancel(seq=live.seq))
            self._clear(live)

    def cancel(self, request_id: str, rule: CancelRule, *, waits: bool = True) -> None:
        """End a request; without effect if it is not live. waits: the engine confirms it; otherwise
        the engine does not answer just now."""
        if request_id not in self.by_id:
            return
        live = self.by_id[request_id]
        if live is None:
            self.cancelled[request_id] = rule
        elif not live.ended:
            live.ending = live.ending or rule
            told = self._send(live, Cancel(seq=live.seq, rule=rule))
            if not (told and waits):
                del self.by_seq[live.seq]
                live.end_here(rule)
                self._clear(live)

    def overdue(self, request_id: str) -> None:
        """End a request that was cancelled, if the engine has still not confirmed it."""
        live = self.by_id.get(request_id)
        if live is not None and live.ending is not None and not live.ended:
            self._end_unconfirmed(live)
            self._clear(live)

    def engine_silent(self) -> None:
        """The engine does not answer just now: what it was told to end, ends here."""
        for live in [*self.by_seq.values()]:
            if self._end_unconfirmed(live):
                self._clear(live)

    def _end_unconfirmed(self, live: LiveRequest) -> bool:
        """End a request that has its end, but for the engine's word. Returns whether it had."""
        rule: Rule | None = "STOP_SEQUENCE" if live.stopped_early else live.ending
        if rule is None:
            return False
        del self.by_seq[live.seq]
        live.end_here(rule)
        return True

    def lose(self, message: str) -> None:
        """No engine will go on with any of them."""
        lives, self.by_seq = self.by_seq, {}
        for live in lives.values():
            live.lost(message)

    # ---- from the engine

    def dispatch(self, outputs: Iterable[object], nbytes: int, kv_usage: float) -> bool:
        """One step's messages. Every token takes this path. Returns whether there was one.

        nbytes, kv_usage: memory figures that go out with a request's metrics.
        """
        now = time.monotonic()
        drawn = False
        told: list[Cancel | Submit] = []
        for m in outputs:
            if not isinstance(m, OfSequence):
                continue
            live = self.by_seq.get(m.seq)
            if live is None:
                continue  # its caller has gone
            if isinstance(m, Pooled):
                drawn = True
                live.pooled(m)
            elif isinstance(m, Tokens):
                drawn = True
                after = live.tokens(m)
                if after == "stop":
                    told.append(Cancel(seq=m.seq, rule="STOP_SEQUENCE"))
                elif after == "start over":
                    told += self._restarted(live)
                if now >= live.metrics_due:
                    live.metrics(now, nbytes, kv_usage)
            elif isinstance(m, Finished):
                del self.by_seq[m.seq]
                live.finished(m)
            else:
                live.news(m)
        if told and self._link is not None:
            self._link.send(*told)
        if self._alone is not None and (self._alone.ended or not self._alone.blame):
            self._clear(self._alone)
        return drawn

    def _restarted(self, live: LiveRequest) -> tuple[Cancel, Submit]:
        """Messages that make the engine go on with other tokens than it drew. What it still says of
        the sequence that it has is not heard any more."""
        old = live.seq
        del self.by_seq[old]
        submit = live.renamed(f"{next(self._numbers)}/{live.request.id}")
        self.by_seq[live.seq] = live
        return Cancel(seq=old), submit

    def figures_told(self) -> None:
        """The engine's latest figures have all requests that it has begun with."""
        for live in self.by_seq.values():
            live.counted = live.counted or live.scheduled

    # ---- when an engine is lost, and another is there

    def culprit_known(self, counts: int) -> bool:
        """Whether the engine was lost to a request that ran alone and now fails, while others
        wait."""
        alone = self._alone
        return alone is not None and alone.to_blame(counts) and len(self.by_seq) > 1

    def engine_lost(self, why: str, counts: int) -> None:
        """The engine is gone. Requests that it was running may have been the reason: `counts`,
        `CRASH` or `KILL`, is held against each."""
        self._link = self._alone = None
        for live in [*self.by_seq.values()]:
            live.interrupted(why, counts)
            if self._end_unconfirmed(live):  # it can no longer be confirmed
                continue
            if live.blame >= BLAMED:
                del self.by_seq[live.seq]
                times = f"{live.lost_engines} times while it ran this request"
                live.lost(f"the engine stopped {times}: {why}.")

    def drafts_ended(self, why: str) -> None:
        """Answers go on without drafts."""
        for live in self.by_seq.values():
            live.drafts_ended(why)

    def engine_ready(self, link: Link) -> None:
        """Hand everything to an engine, in the order of arrival. A suspect goes first, alone, until
        it has a token or has ended; then the next one, and at last all others."""
        self._link = link
        self._alone = None
        self._hand_over()

    def _hand_over(self) -> None:
        waiting = [live for live in self.by_seq.values() if not live.submitted]
        suspects = [live for live in waiting if live.blame >= SUSPECT]
        if suspects:
            self._alone = suspects[0]
        self._submit(*(suspects[:1] or waiting))

    def _clear(self, live: LiveRequest) -> None:
        """If it ran alone, others may run."""
        if live is self._alone:
            self._alone = None
            self._hand_over()

    def _submit(self, *lives: LiveRequest) -> None:
        """Hand them to the engine in one message: it begins with as many as it can, so that one
        that kills engines is found together with others like it."""
        if not lives or self._link is None:
            return
        words = next((w for live in lives if (w := live.prepared.words) is not None), None)
        if words is not None and self._told is not self._link:
            self._told = self._link
            self._link.send(words)
        self._link.send(*[live.submit() for live in lives])

    def _send(self, live: LiveRequest, command: Cancel) -> bool:
        """Tell the engine. False if it does not have the request."""
        if self._link is None or not live.submitted:
            return False
        self._link.send(command)
        return True
