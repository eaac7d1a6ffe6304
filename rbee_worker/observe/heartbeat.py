"""Heartbeats: regularly tell the hive that this worker is alive, without disturbing the worker.

A failed beat is retried after growing pauses. An unreachable hive is not an error of the worker.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx

from rbee_worker.observe.log import fields, logger

PATH = "/v1/worker-heartbeat"
TIMEOUT_S = 5.0
FIRST_PAUSE_S = 1.0

log = logger("heartbeat")


class Heartbeat:
    """POSTs `{"worker": describe(), "timestamp"}` to `hive_url` every `every_s` seconds."""

    def __init__(
        self,
        hive_url: str,
        describe: Callable[[], dict[str, Any]],
        every_s: float,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = hive_url.rstrip("/") + PATH
        self._describe = describe
        self._every_s = every_s
        self._transport = transport
        self._sleep = sleep

    async def run(self) -> None:
        """Send beats until cancelled."""
        failures = 0
        async with httpx.AsyncClient(timeout=TIMEOUT_S, transport=self._transport) as client:
            while True:
                if await self._beat(client):
                    failures = 0
                    await self._sleep(self._every_s)
                else:
                    await self._sleep(self.pause(failures))
                    failures += 1

    def pause(self, failures: int) -> float:
        """Seconds before the next try: doubled each time, at most the interval, slightly random."""
        grown = min(self._every_s, FIRST_PAUSE_S * 2.0 ** min(failures, 16))
        return grown * random.uniform(0.8, 1.0)

    async def _beat(self, client: httpx.AsyncClient) -> bool:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            answer = await client.post(
                self._url, json={"worker": self._describe(), "timestamp": stamp}
            )
            answer.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("heartbeat failed", extra=fields(error=type(error).__name__))
            return False
        return True
