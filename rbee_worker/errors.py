"""Every error a person can cause or must hear of.

    WorkerError                code            http  exit
    ├─ UsageError              BAD_USAGE        400     2   a flag, setting or environment variable
    ├─ ModelError              MODEL_UNUSABLE   503     3   the model cannot be loaded
    │  ├─ BadReference       BAD_REFERENCE    404     3   no such path, package, alias, file
    │  ├─ CheckpointError      BAD_CHECKPOINT   503     3   damaged, incomplete or hostile file
    │  └─ UnsupportedModel     UNSUPPORTED      503     3   architecture, format or trait
    ├─ InvalidRequest          INVALID_REQUEST  400     1   one or more fields, all listed
    ├─ NotReady                NOT_READY        503     1   loading, restarting, draining, failed
    ├─ QueueFull               QUEUE_FULL       429     1
    ├─ OutOfMemory             VRAM_OOM         507     1   one request, never the engine
    ├─ InferenceFailed         INFERENCE_FAILED 500     1
    ├─ EngineLost              ENGINE_LOST      503     1
    └─ DeviceLost              DEVICE_LOST      503     4

A message is one line: what is wrong, where, and what to do. It never contains prompt text. On a
terminal it takes at most 300 characters, and always says what to do.
"""

from __future__ import annotations

from typing import Any

import msgspec

INTERRUPTED = 130  # exit code: 128 + SIGINT, as shells count
LINE = 300  # characters of an error on a terminal
_FIX = 130  # of them, for what to do
_MARK = " Fix: "


class FieldError(msgspec.Struct, frozen=True):
    """One field that cannot be accepted. `value` is shown only when it is short and no prompt."""

    field: str
    constraint: str
    message: str
    value: Any = None


class WorkerError(Exception):
    """Base of all: `code` for machines, `http_status` for servers, `exit_code` for shells."""

    code = "WORKER_ERROR"
    http_status = 500
    exit_code = 1
    usual_fix = "run it again with --debug and report the traceback"  # where none is given

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        message = " ".join(message.splitlines())
        self.message = message
        self.fix = fix
        super().__init__(message if fix is None else f"{message}{_MARK}{fix}")

    @property
    def line(self) -> str:
        """What is wrong and what to do, in one line of at most `LINE` characters."""
        # An engine's error comes as text, its fix within.
        message, _, told = " ".join(self.message.split()).partition(_MARK)
        fix = shortened(self.fix or told or self.usual_fix, _FIX)
        return shortened(message, LINE - len(_MARK) - len(fix)) + _MARK + fix


def shortened(text: str, most: int) -> str:
    """`text` in at most `most` characters: what is cut is its middle."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 1]}…{text[len(text) - end :]}"


class UsageError(WorkerError):
    code = "BAD_USAGE"
    usual_fix = "rbee-worker --help, or --help after a command, lists what there is."
    http_status = 400
    exit_code = 2


class ModelError(WorkerError):
    code = "MODEL_UNUSABLE"
    http_status = 503
    exit_code = 3
    usual_fix = "use another model, or another version of this one"


class BadReference(ModelError):
    code = "BAD_REFERENCE"
    http_status = 404
    usual_fix = "check how the model is called, or give the path of one on this machine"


class CheckpointError(ModelError):
    code = "BAD_CHECKPOINT"
    usual_fix = "download the checkpoint again"


class UnsupportedModel(ModelError):
    code = "UNSUPPORTED"


class InvalidRequest(WorkerError):
    """All offending fields at once."""

    code = "INVALID_REQUEST"
    http_status = 400
    usual_fix = "change what is named"

    def __init__(self, errors: list[FieldError]) -> None:
        assert errors
        self.errors = errors
        super().__init__("; ".join(f"{e.field}: {e.message}" for e in errors))


class NotReady(WorkerError):
    code = "NOT_READY"
    http_status = 503
    usual_fix = "try again in a moment"

    def __init__(self, state: str, message: str, *, retry_after_s: int = 2) -> None:
        self.state = state
        self.retry_after_s = retry_after_s
        super().__init__(message)


class QueueFull(WorkerError):
    code = "QUEUE_FULL"
    http_status = 429
    usual_fix = "try again in a moment"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class OutOfMemory(WorkerError):
    code = "VRAM_OOM"
    http_status = 507
    usual_fix = "ask for less, choose a smaller model, or free some memory"


class InferenceFailed(WorkerError):
    code = "INFERENCE_FAILED"


class EngineLost(WorkerError):
    code = "ENGINE_LOST"
    http_status = 503
    usual_fix = "start the worker again; running out of memory is a common cause"


class DeviceLost(WorkerError):
    code = "DEVICE_LOST"
    http_status = 503
    usual_fix = "check the device, then start the worker again"
    exit_code = 4
