"""A request's times by the client's clock: what its usage says where no single engine knows it."""

from __future__ import annotations

import time

from rbee_worker.sequence_end import Usage


class RequestClock:
    """Seconds (monotonic) at which a request was accepted, first scheduled, and had its first
    token; 0.0 while that has not happened. cached: prompt tokens found in a cache at first.
    first_tokens: output tokens at the time of the first one, with those of an earlier process."""

    def __init__(self) -> None:
        self.accepted_s = time.monotonic()
        self.scheduled_s = 0.0
        self.first_token_s = 0.0
        self.first_tokens = 0
        self.cached = 0
        self.preemptions = 0

    def scheduled(self, cached: int) -> None:
        """The engine has begun with it; only the first time counts."""
        if not self.scheduled_s:
            self.scheduled_s = time.monotonic()
            self.cached = cached

    def usage(self, prompt_tokens: int, output_tokens: int) -> Usage:
        """Counts and times up to now; a phase that was not reached took no time."""
        now = time.monotonic()
        scheduled = self.scheduled_s or now
        first = self.first_token_s or now
        return Usage(
            prompt_tokens=prompt_tokens,
            # the tokens that an earlier process drew may have been found as well
            cached_tokens=min(self.cached, prompt_tokens),
            output_tokens=output_tokens,
            queue_ms=(scheduled - self.accepted_s) * 1e3,
            prefill_ms=(first - scheduled) * 1e3,
            decode_ms=(now - first) * 1e3,
            preemptions=self.preemptions,
        )
