"""What a failed step means to the request that is to blame for it."""

from __future__ import annotations

from rbee_worker.errors import InferenceFailed, OutOfMemory, WorkerError

# torch raises RuntimeError or its own OutOfMemoryError with one of these.
OUT_OF_MEMORY = ("allocate memory", "out of memory")


def as_worker_error(error: Exception) -> WorkerError:
    """What a failed step means to the request that is to blame. Never contains prompt text."""
    if isinstance(error, WorkerError):
        return error
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY):
        return OutOfMemory(
            "there was not enough memory to compute this request.",
            fix="send a shorter prompt, or start the worker with a smaller --ctx.",
        )
    first = text.splitlines()[0][:200] if text else "no message"
    return InferenceFailed(f"the model failed on this request: {type(error).__name__}: {first}")
