"""`Holder` and `Call`: what the holder of a token does and may do.

A call is one HTTP request with all the work that it starts: a job outlives its request, and one
request may have many answers. It takes one of its holder's places from its first piece of work
until the last one has ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from msgspec import Struct

from rbee_worker.server.problems import Refusal

MINUTE_S = 60.0


class Limits(Struct, frozen=True, kw_only=True):
    """concurrency: calls at a time; tokens_per_minute: of prompts and answers. 0: any number."""

    concurrency: int = 0
    tokens_per_minute: int = 0


class Holder:
    """One who may call, by name. live: calls that have a place. The others are counts for metrics;
    refused: by the limit that was reached."""

    def __init__(
        self, name: str, limits: Limits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.limits = limits or Limits()
        self.live = 0
        self.requests = self.prompt_tokens = self.output_tokens = 0
        self.refused = {"concurrency": 0, "tokens_per_minute": 0}
        self._clock = clock
        self._spent = 0.0  # tokens that still count; it falls by the limit every minute
        self._as_of_s = clock()

    def enter(self) -> None:
        """Take a place. Raises Refusal (429)."""
        most, per_minute = self.limits.concurrency, self.limits.tokens_per_minute
        if most and self.live >= most:
            self.refused["concurrency"] += 1
            message = f"The token {self.name} has {self.live} requests running, which is its limit."
            raise _too_many("token_concurrency", message, 1)
        if per_minute and (over := self._level() - per_minute) >= 0:
            self.refused["tokens_per_minute"] += 1
            message = f"The token {self.name} has used its {per_minute} tokens a minute."
            wait_s = math.floor(over / per_minute * MINUTE_S) + 1
            raise _too_many("token_rate", message, wait_s)
        self.live += 1
        self.requests += 1

    def leave(self) -> None:
        """Give a place back."""
        self.live -= 1

    def used(self, *, prompt: int = 0, output: int = 0) -> None:
        """Tokens were read or drawn."""
        self.prompt_tokens += prompt
        self.output_tokens += output
        self._spent = self._level() + prompt + output if self.limits.tokens_per_minute else 0.0

    def _level(self) -> float:
        now = self._clock()
        per_minute = self.limits.tokens_per_minute
        fallen = (now - self._as_of_s) * per_minute / MINUTE_S
        # without a limit nothing is remembered: one that is set later counts from then on
        self._spent, self._as_of_s = max(0.0, self._spent - fallen) if per_minute else 0.0, now
        return self._spent


def _too_many(code: str, message: str, wait_s: int) -> Refusal:
    return Refusal(
        429, code, message, fix=f"try again in {wait_s} s.", headers={"Retry-After": str(wait_s)}
    )


class Call:
    """One request of `holder`. open: more work may come."""

    def __init__(self, holder: Holder, *, accepted: bool = False) -> None:
        """accepted: its request was answered by an earlier process, so its work needs no leave."""
        self.holder = holder
        self._open = not accepted
        self._entered = False
        self._working = 0
        if accepted:
            holder.live += 1
            self._entered = True

    def enter(self) -> None:
        """Work is about to begin. Raises Refusal (429), only before the first piece of it."""
        if not self._entered:
            self.holder.enter()
            self._entered = True

    def begun(self, prompt_tokens: int) -> None:
        """A piece of work has begun."""
        self._working += 1
        self.holder.used(prompt=prompt_tokens)

    def drew(self, tokens: int) -> None:
        """A piece of work has new tokens."""
        self.holder.used(output=tokens)

    def ended(self) -> None:
        """A piece of work has ended."""
        self._working -= 1
        self._leave()

    def close(self) -> None:
        """The request is answered: no more work will begin."""
        self._open = False
        self._leave()

    def _leave(self) -> None:
        if self._entered and not self._open and self._working == 0:
            self._entered = False
            self.holder.leave()


_CALL: ContextVar[Call | None] = ContextVar("rbee_call", default=None)


def current_call() -> Call | None:
    """The call that the running task belongs to."""
    return _CALL.get()


@contextmanager
def calling(call: Call | None) -> Iterator[None]:
    """Inside the block, this task and those it starts belong to `call`, which ends with it."""
    mark = _CALL.set(call)
    try:
        yield
    finally:
        _CALL.reset(mark)
        if call is not None:
            call.close()


def caller() -> str:
    """The name of whoever called, "" if nobody in particular."""
    call = current_call()
    return "" if call is None else call.holder.name
