"""Idempotency-Key: a request that is sent again starts no second job.

Keys are kept as long as the jobs that they were sent with, and where those are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from rbee_worker.server.body import Body
from rbee_worker.server.headers import IDEMPOTENCY
from rbee_worker.server.jobs import Asked, Job
from rbee_worker.server.limits import caller
from rbee_worker.server.problems import Refusal
from rbee_worker.server.worker import Worker


def asked_by(key: str | None, body: Body) -> Asked | None:
    """The key with what it stands for: the body's JSON, whatever the order of names in it. None for
    a body that is refused anyway: its values may be those of another one (a name given twice)."""
    if key is None or body.faults:
        return None
    import hashlib  # seldom needed

    text = msgspec.json.encode(body.values, order="deterministic")
    return Asked(f"{caller()} {key}", hashlib.sha256(text).digest())


async def once(
    worker: Worker, asked: Asked | None, begin: Callable[[], Awaitable[Job]]
) -> tuple[Job, bool]:
    """(the job that `begin` starts, False), or (the kept one of the same key, True).

    Of requests that come at the same time one begins, the others wait for what becomes of it; one
    that is refused leaves its key free. Raises Refusal (409) where the key has another body.
    """
    if asked is None:
        return await begin(), False
    await worker.known()
    while (other := worker.beginning.get(asked.key)) is not None:
        await asyncio.wait([other])
    job = worker.jobs.by_key(asked.key)
    if job is not None:
        assert job.asked is not None
        if job.asked.digest != asked.digest:
            message = "This Idempotency-Key was sent with another body."
            fix = f"a new key, or the same body; the key is that of {job.id}."
            raise Refusal(409, "idempotency_key_reused", message, fix=fix, param=IDEMPOTENCY)
        return job, True
    mine = worker.beginning[asked.key] = asyncio.get_running_loop().create_future()
    try:
        return await begin(), False
    finally:
        del worker.beginning[asked.key]
        mine.set_result(None)
