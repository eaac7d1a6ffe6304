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

A message is one line: what is wrong, where, and what to do. It never contains prompt text. With its
fix it has at most `LINE` characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

INTERRUPTED = 130  # exit code: 128 + SIGINT, as shells count
LINE = 300 - len("error: ")  # characters of a message, its fix included
_FIX = 130  # of them that a fix has at least
_MARK = " Fix: "
MOST_FAULTS = 64  # fields that one refusal lists; how many more there are is said
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def one_line(text: str, most: int = LINE) -> str:
    """`text` as one line that a terminal shows as it is, of at most `most` characters.

    Messages repeat names that files and callers chose. Control characters become their pictures
    (a line feed is \u240a), what else moves the cursor or the writing direction becomes \ufffd, and
    of a text that is too long the middle is left out.
    """
    if len(text) > most:
        head = (most - 1) * 2 // 3
        text = f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
    return UNPRINTABLE.sub(picture, text)


def picture(match: re.Match[str]) -> str:
    """What stands for a character that a terminal would obey."""
    code = ord(match[0])
    if code == 0x7F:
        return "\u2421"
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"


class FieldError(msgspec.Struct, frozen=True):
    """One field that cannot be accepted. `value` is shown only when it is short and no prompt."""

    field: str
    constraint: str
    message: str
    value: Any = None


class WorkerError(Exception):
    """Base of all: `code` for machines, `http_status` for servers, `exit_code` for shells.

    As text it is one line of at most `LINE` characters: a message that takes more than two thirds
    of it loses its middle, a fix that is longer than the rest its end. `fix` holds all of it.
    """

    code = "WORKER_ERROR"
    http_status = 500
    exit_code = 1
    usual_fix = "run it again with --debug and report the traceback"  # where none is given

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        self.message = one_line(message)
        self.fix = fix
        super().__init__(message)

    def __str__(self) -> str:
        return self.message if self.fix is None else self._with(self.fix)

    @property
    def line(self) -> str:
        """What is wrong and what to do; the fix is the usual one where there is no better."""
        message, _, told = self.message.partition(_MARK)  # an engine's error has its fix within
        return self._with(self.fix or told or self.usual_fix, message)

    def _with(self, fix: str, message: str | None = None) -> str:
        text = " ".join((self.message if message is None else message).split())
        text += "" if text.endswith((".", "!", "?", ":")) else "."
        fix = one_line(fix, max(_FIX, LINE - len(_MARK) - len(text)))
        return one_line(text, LINE - len(_MARK) - len(fix)) + _MARK + fix


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
    """All offending fields at once. `told`: those that are listed, and how many more there are."""

    code = "INVALID_REQUEST"
    http_status = 400
    usual_fix = "change what is named"

    def __init__(self, errors: Sequence[FieldError], *, fix: str | None = None) -> None:
        assert errors
        self.errors = list(errors)
        self.told = self.errors[:MOST_FAULTS]
        if len(self.errors) > MOST_FAULTS:
            more = f"and {len(self.errors) - MOST_FAULTS} more faults, which are not listed"
            self.told.append(FieldError("", "fewer faults", more))
        words = (f"{e.field}: {e.message}" if e.field else e.message for e in self.told)
        super().__init__("; ".join(words), fix=fix)


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


# torch raises RuntimeError, or an OutOfMemoryError of its own, with one of these.
_OUT_OF_MEMORY = ("allocate memory", "out of memory")


def is_out_of_memory(error: Exception) -> bool:
    """Python's, torch's or the device's way of saying that memory is gone."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


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
