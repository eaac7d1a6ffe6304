"""Python client of a worker: jobs as typed events; a broken stream is resumed automatically.

    from rbee_worker.client import Client

    with Client("http://127.0.0.1:8080", token="...") as client:
        for event in client.generate(prompt="The bee", max_tokens=32):
            ...

`AsyncClient` has the same methods with `async`. Events are the structs of `rbee_worker.wire`.
"""

from rbee_worker.answer_parts import CallPiece, joined_calls
from rbee_worker.client.aio import AsyncClient, AsyncJob
from rbee_worker.client.failures import ClientError, Refused, StreamBroken, Unreachable
from rbee_worker.client.sync import Client, Job
from rbee_worker.wire import (
    End,
    Error,
    JobEvent,
    Metrics,
    Narration,
    PromptLogprobs,
    Started,
    Token,
)

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "CallPiece",
    "Client",
    "ClientError",
    "End",
    "Error",
    "Job",
    "JobEvent",
    "Metrics",
    "Narration",
    "PromptLogprobs",
    "Refused",
    "Started",
    "StreamBroken",
    "Token",
    "Unreachable",
    "joined_calls",
]
