"""Chat templates: messages in, the model's prompt text out.

Rendering happens in a child process with limits (`render_child`), started when first needed and
used again; a template that exceeds a limit costs that process and nothing else. This module knows
nothing of tokens: encode the result without adding specials, the template has written them.
"""

from __future__ import annotations

import json
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, Self

from rbee_worker.errors import CheckpointError, FieldError, InferenceFailed, InvalidRequest
from rbee_worker.extras import need

_HEADER = struct.Struct(">I")
_SCRIPT = Path(__file__).with_name("render_child.py")
_START_S = 60.0  # for a machine under load; 0.1 s on an idle one
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_ROLES = {"developer": "system"}
_RESERVED = ("messages", "add_generation_prompt", "tools", "documents")


class ChatRenderer:
    """One template. Threads may share it; renderings wait for each other.

    cpu_s, wall_s: seconds one rendering may take; memory: bytes of address space of the process;
    most_chars: longest result. special_tokens: more names for the template ("unk_token", ..).
    """

    def __init__(
        self,
        template: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        special_tokens: Mapping[str, str] | None = None,
        cpu_s: float = 2.0,
        wall_s: float = 10.0,
        memory: int = 512 << 20,
        most_chars: int = 4 << 20,
    ) -> None:
        self._template = template
        tokens = {"bos_token": bos_token, "eos_token": eos_token, **(special_tokens or {})}
        self._tokens = {name: text for name, text in tokens.items() if text}
        self._cpu_s = cpu_s
        self._wall_s = wall_s
        self._limits = (str(cpu_s), str(memory), str(most_chars))
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **template_args: Any,
    ) -> str:
        """The prompt for `messages`. Content is a string or a list of text parts.

        Raises InvalidRequest for messages that cannot be rendered (the template's own message
        where it gives one) or that take too much, CheckpointError for a template that is broken
        or tries what the sandbox forbids.
        """
        taken = [name for name in template_args if name in _RESERVED or name in self._tokens]
        if taken:
            raise InvalidRequest(
                [FieldError(n, "reserved", f"{n} is no template argument") for n in taken]
            )
        context = {
            **self._tokens,
            "tools": None,
            "documents": None,
            **template_args,
            "messages": normalised(messages),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            body = json.dumps({"context": context})
        except (TypeError, ValueError) as e:
            raise _refused(
                "messages", "json", "messages and template arguments must be JSON"
            ) from e
        with self._lock:
            answer = self._ask(body)
        if "text" in answer:
            return answer["text"]
        return _raise(answer["error"], answer["message"])

    async def arender(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **template_args: Any,
    ) -> str:
        """`render` without blocking the event loop."""
        import asyncio  # whoever awaits has it already; others start 0.1 s sooner

        return await asyncio.to_thread(
            self.render, messages, add_generation_prompt=add_generation_prompt, **template_args
        )

    def close(self) -> None:
        """End the child process. Rendering again starts another."""
        with self._lock:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, body: str) -> dict[str, str]:
        if self._child is not None and not self._child.alive:
            self._end()
        if self._child is None:
            self._child = _Child(self._limits)
            self._reaper = weakref.finalize(self, self._child.kill)
            body = json.dumps({"template": self._template})[:-1] + ", " + body[1:]
        try:
            return self._child.ask(body.encode(), self._wall_s)
        except TimeoutError:
            self._end()
            return {"error": "time", "message": f"more than {self._wall_s:g} s"}
        except (OSError, EOFError):
            code = self._end()
            if code == -signal.SIGPROF:
                return {
                    "error": "time",
                    "message": f"more than {self._cpu_s:g} s of processor time",
                }
            return {"error": "memory", "message": ""}

    def _end(self) -> int | None:
        if self._child is None:
            return None
        child, self._child = self._child, None
        self._reaper.detach()
        return child.kill()


class _Child:
    """The process and its two pipes."""

    def __init__(self, limits: tuple[str, ...]) -> None:
        need("jinja2", "markupsafe")
        # jinja2 and markupsafe are found for the child, which runs isolated from the environment.
        specs = [find_spec(name) for name in ("jinja2", "markupsafe")]
        paths = {str(Path(s.origin).parents[1]) for s in specs if s is not None and s.origin}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_SCRIPT), *sorted(paths), *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                bufsize=0,
            )
        except OSError as e:
            raise InferenceFailed(f"the chat template process cannot start: {e.strerror}") from e
        try:
            self._frame(time.monotonic() + _START_S)
        except (OSError, EOFError) as e:  # TimeoutError is an OSError
            raise InferenceFailed(
                f"the chat template process did not start (exit status {self.kill()})"
            ) from e

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, body: bytes, wall_s: float) -> dict[str, str]:
        """Send one frame, wait for its answer. Raises TimeoutError, OSError, EOFError."""
        until = time.monotonic() + wall_s
        assert self._process.stdin is not None
        frame = memoryview(_HEADER.pack(len(body)) + body)
        while frame:
            frame = frame[self._process.stdin.write(frame) or 0 :]
        return self._frame(until)

    def _frame(self, until: float) -> dict[str, str]:
        (size,) = _HEADER.unpack(self._receive(_HEADER.size, until))
        answer: dict[str, str] = json.loads(self._receive(size, until))
        return answer

    def _receive(self, size: int, until: float) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        parts: list[bytes] = []
        while size:
            ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError
            part = pipe.read(min(size, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def kill(self) -> int:
        """End the process if it still runs; its exit status, negative for a signal."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            return self._process.wait(0.1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def normalised(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with one string of content each; text parts are joined with newlines, the role
    `developer` is `system`. Raises InvalidRequest that lists every message it cannot use."""
    errors: list[FieldError] = []
    found: list[dict[str, Any]] = []
    if not messages:
        errors.append(FieldError("messages", "length >= 1", "at least one message is needed"))
    for at, message in enumerate(messages):
        if not isinstance(message, Mapping):
            errors.append(FieldError(f"messages[{at}]", "object", "a message is an object"))
            continue
        role = message.get("role")
        if not isinstance(role, str) or not _ROLE.fullmatch(role):
            errors.append(
                FieldError(f"messages[{at}].role", "role name", "role must be a plain name")
            )
            continue
        content = _content(message.get("content"), f"messages[{at}].content", errors)
        found.append({**message, "role": _ROLES.get(role, role), "content": content})
    if errors:
        raise InvalidRequest(errors)
    return found


def _content(value: Any, field: str, errors: list[FieldError]) -> str:
    if value is None:
        return ""  # an assistant's message may have none
    if isinstance(value, str):
        return value
    texts: list[str] = []
    if not isinstance(value, list | tuple):
        errors.append(FieldError(field, "string or parts", "content is a string or text parts"))
        return ""
    for at, part in enumerate(value):
        text = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(text, str) and part.get("type", "text") in ("text", "input_text"):
            texts.append(text)
        else:
            errors.append(
                FieldError(f"{field}[{at}]", "text part", "only text parts are supported")
            )
    return "\n".join(texts)


def _refused(field: str, constraint: str, message: str) -> InvalidRequest:
    return InvalidRequest([FieldError(field, constraint, message)])


def _raise(kind: str, message: str) -> NoReturn:
    if kind == "syntax":
        raise CheckpointError(
            f"the model's chat template is not valid Jinja ({message})",
            fix="correct chat_template, or send a prompt instead of messages",
        )
    if kind == "security":
        raise CheckpointError(
            f"the model's chat template does what the sandbox forbids ({message})",
            fix="do not use this model file's template: it may be malicious",
        )
    said = {
        "raised": message,
        "undefined": f"the chat template misses something in these messages ({message})",
        "time": f"the chat template takes {message} for these messages",
        "memory": "the chat template needs too much memory for these messages",
        "output": "the chat template makes too long a prompt of these messages",
        "other": f"the chat template fails on these messages ({message})",
    }
    raise _refused("messages", "chat template", said[kind])
