"""The worker process of `benchmarks.server`: the real server, an engine that only makes events.

`--` one JSON argument: tokens of each answer; wait_s before the first one, so that all streams
are open; rate in tokens a second of each stream (absent: as fast as they are taken, all streams in
turn, in bursts of one event each). At a rate, each token's text is the time it was made ("@..."),
and the times from there to the socket write are printed as the last line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from rbee_worker.cli.output import whole_streams
from rbee_worker.config import Settings
from rbee_worker.server.run import serve
from rbee_worker.server.tokens import Tokens
from rbee_worker.server.worker import Worker
from rbee_worker.types import Event, Request, Token
from tests.server.fake_engine import Fake, FakeEngineClient

OPTIONS: dict[str, Any] = json.loads(sys.argv[1])


class Events(FakeEngineClient):
    """Token events without a tokenizer or a model."""

    async def _answer(
        self,
        request: Request,
        live: Any,
        prompt_ids: list[int],
        params: Any,
        queued: float,
        after: Sequence[Event],
    ) -> AsyncIterator[Event]:
        assert not after, "nothing goes on here"
        tokens, rate = OPTIONS["tokens"], OPTIONS.get("rate")
        loop = asyncio.get_running_loop()
        start = loop.time() + OPTIONS["wait_s"]
        await asyncio.sleep(OPTIONS["wait_s"])
        phase = hash(request.id) % 1000 / 1000 / (rate or 1)
        for i in range(tokens):
            if rate is None:
                await asyncio.sleep(0)
                text = " word"
            else:
                await asyncio.sleep(max(0.0, start + phase + i / rate - loop.time()))
                text = f"@{time.monotonic():.6f}"
            yield Token(t=text, i=i, ids=(i % 50_000,))
        yield self._end("MAX_TOKENS", tokens, len(prompt_ids), queued, 1.0)


def measure_writes() -> list[float]:
    """Make every job stream note how long its events took to the socket."""
    found: list[float] = []
    told = Worker.sent

    def sent(self: Worker, job: Any, start_s: float, events: int) -> None:
        now = time.monotonic()
        # the events of this write are the newest ones that this job's stream has read
        told(self, job, start_s, events)
        at = job.sent_events
        for event in job.log.events[at - events : at]:
            if type(event) is Token and event.t.startswith("@"):
                found.append(now - float(event.t[1:]))

    Worker.sent = sent  # type: ignore[method-assign]
    return found


async def start(settings: Settings, *, on_loading: Any) -> Events:
    return Events(settings, Fake(context=1 << 20, narrate=False), on_loading)


def main() -> None:
    whole_streams()  # the last line is longer than a pipe takes at once
    found = measure_writes() if "rate" in OPTIONS else []
    settings = Settings(local_mode=True, port=0, max_seqs=64)
    code = serve(settings, Tokens(settings), start)
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    sys.exit(code)


if __name__ == "__main__":
    main()
