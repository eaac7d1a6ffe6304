"""Every error that a user can cause or must be told about.

    WorkerError                code            http  exit
    ├─ UsageError              BAD_USAGE        400     2   a flag, setting or environment variable
    ├─ ModelError              MODEL_UNUSABLE   503     3   the model cannot be loaded
    │  ├─ BadReference       BAD_REFERENCE    404     3   no such path, package, alias, file
    │  ├─ CheckpointError      BAD_CHECKPOINT   503     3   damaged, incomplete or hostile file
    │  ├─ UnsupportedModel     UNSUPPORTED      503     3   architecture, format or trait
    │  └─ AdapterError         BAD_ADAPTER      400     3   an adapter that cannot be used here
    ├─ InvalidRequest          INVALID_REQUEST  400     1   one or more fields, all listed
    ├─ WrongModel              WRONG_MODEL      400     1   the model is for something else
    ├─ NotReady                NOT_READY        503     1   the worker's state says why
    ├─ QueueFull               QUEUE_FULL       429     1
    ├─ OutOfMemory             VRAM_OOM         507     1   one request, never the engine
    ├─ InferenceFailed         INFERENCE_FAILED 500     1
    ├─ EngineLost              ENGINE_LOST      503     1
    └─ DeviceLost              DEVICE_LOST      503     4

A message is one line: what is wrong, where, and what to do. It never contains prompt text. Together
with its fix it has at most `LINE` characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

INTERRUPTED = 130  # exit code: 128 + SIGINT, as in shells
LINE = 300 - len("error: ")  # most characters of a message, including its fix
_FIX = 130  # characters that are reserved for the fix
_MARK = " Fix: "
MOST_FAULTS = 64  # fields that one refusal lists; it says how many more there are
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def one_line(text: str, most: int = LINE) -> str:
    """`text` as one line of at most `most` characters that a terminal can safely show.

    Messages quote names that files and callers chose. Control characters become their pictures (a
    line feed is \u240a), other characters that move the cursor or change the writing direction
    become \ufffd, and a text that is too long loses its middle.
    """
    if len(text) > most:
        head = (most - 1) * 2 // 3
        text = f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
    return UNPRINTABLE.sub(picture, text)


def picture(match: re.Match[str]) -> str:
    """The replacement for a character that a terminal would interpret."""
    code = ord(match[0])
    if code == 0x7F:
        return "\u2421"
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"


class FieldError(msgspec.Struct, frozen=True):
    """A field that cannot be accepted. `value` is set only if it is short and not a prompt."""

    field: str
    constraint: str
    message: str
    value: Any = None


class WorkerError(Exception):
    """Base of all errors: `code` for programs, `http_status` for servers, `exit_code` for shells.

    As text it is one line of at most `LINE` characters. A message that takes more than two thirds
    of it loses its middle; a fix that is longer than the rest loses its end. `fix` has the whole
    fix. `of_draft`: only the draft model cannot be used, without which answers are the same.
    """

    code = "WORKER_ERROR"
    http_status = 500
    exit_code = 1
    usual_fix = "run it again with --debug and report the traceback"  # if no other fix is given
    of_draft = False

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        self.message = one_line(message)
        self.fix = fix
        super().__init__(message)

    def __str__(self) -> str:
        return self.message if self.fix is None else self._with(self.fix)

    @property
    def line(self) -> str:
        """What is wrong and the fix: the given one, or else the usual one."""
        _, _, told = self.message.partition(_MARK)  # an engine's message includes its fix
        return self._with(self.fix or told or self.usual_fix, self.said)

    @property
    def said(self) -> str:
        """What is wrong, without a fix."""
        return self.message.partition(_MARK)[0]

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
    usual_fix = "check the model's name, or give the path of a model on this machine"


class CheckpointError(ModelError):
    code = "BAD_CHECKPOINT"
    usual_fix = "download the checkpoint again"


class UnsupportedModel(ModelError):
    code = "UNSUPPORTED"


class AdapterError(ModelError):
    """An adapter that is damaged, of an unsupported kind, or made for another model."""

    code = "BAD_ADAPTER"
    http_status = 400
    usual_fix = "use an adapter that was trained on this model"


class InvalidRequest(WorkerError):
    """All faulty fields at once. `told`: those that are listed, and the number of the others."""

    code = "INVALID_REQUEST"
    http_status = 400
    usual_fix = "change the fields that are named"

    def __init__(self, errors: Sequence[FieldError], *, fix: str | None = None) -> None:
        assert errors
        self.errors = list(errors)
        self.told = self.errors[:MOST_FAULTS]
        if len(self.errors) > MOST_FAULTS:
            more = f"and {len(self.errors) - MOST_FAULTS} more faults, which are not listed"
            self.told.append(FieldError("", "fewer faults", more))
        words = (f"{e.field}: {e.message}" if e.field else e.message for e in self.told)
        super().__init__("; ".join(words), fix=fix)


class WrongModel(WorkerError):
    """A request that no model of this kind can answer."""

    code = "WRONG_MODEL"
    http_status = 400
    usual_fix = "ask a worker whose model is made for this; GET /v1/models says what for"


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


# torch raises RuntimeError, or its own OutOfMemoryError, with one of these in the message.
_OUT_OF_MEMORY = ("allocate memory", "out of memory")
# CUDA errors after which nothing in the process can use the device any more, or no process can.
_DEVICE_LOST = (
    "an illegal memory access",
    "misaligned address",
    "an illegal instruction",
    "unspecified launch failure",
    "launch timed out",
    "device-side assert",
    "uncorrectable ECC",
    "uncorrectable NVLink",
    "hardware stack error",
    "invalid program counter",
    "fallen off the bus",
    "no CUDA-capable device",
    "No CUDA GPUs are available",
    "invalid device context",
    "context is destroyed",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python, torch or a device means that memory ran out."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


def device_lost(error: BaseException) -> DeviceLost | None:
    """`error` as the loss of a device, if it means that; else None."""
    text = str(error)
    if isinstance(error, DeviceLost):
        return error
    if isinstance(error, RuntimeError) and any(sign in text for sign in _DEVICE_LOST):
        return DeviceLost(f"the GPU cannot be used any more: {text.splitlines()[0][:200]}.")
    return None


def as_worker_error(error: Exception) -> WorkerError:
    """The error that the request's caller gets. It never contains prompt text."""
    if isinstance(error, WorkerError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory(
            "there was not enough memory to compute this request.",
            fix="send a shorter prompt, or start the worker with a smaller --ctx.",
        )
    first = (str(error).splitlines() or ["no message"])[0][:200]
    return InferenceFailed(f"the model failed on this request: {type(error).__name__}: {first}")
