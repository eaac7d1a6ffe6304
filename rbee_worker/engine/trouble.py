"""What a failed step means to the request that is to blame for it."""

from __future__ import annotations

from rbee_worker.errors import InferenceFailed, OutOfMemory, WorkerError

# torch raises RuntimeError or its own OutOfMemoryError with one of these.
OUT_OF_MEMORY = ("allocate memory", "out of memory")


def is_out_of_memory(error: Exception) -> bool:
    """Python's, torch's or the device's way of saying that memory is gone."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)


def as_worker_error(error: Exception) -> WorkerError:
    """The error that the request's caller sees. Never contains prompt text."""
    if isinstance(error, WorkerError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory(
            "there was not enough memory to compute this request.",
            fix="send a shorter prompt, or start the worker with a smaller --ctx.",
        )
    first = (str(error).splitlines() or ["no message"])[0][:200]
    return InferenceFailed(f"the model failed on this request: {type(error).__name__}: {first}")
