"""Chat templates: messages in, the model's prompt text out.

Rendering happens in a child process with limits (`render_child`), which is started when it is first
needed and then reused. A template that exceeds a limit costs only that process. This module knows
no tokens: encode the result without adding special tokens, because the template has written them.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

from rbee_worker.errors import CheckpointError, FieldError, InvalidRequest
from rbee_worker.tokenizer.call_forms import CallForm, Message, Render, find_call_form
from rbee_worker.tokenizer.confined import Confined, TooMuch
from rbee_worker.tokenizer.messages import SENTINEL, Checked, Form, checked, find_form

_SCRIPT = Path(__file__).with_name("render_child.py")
_MODULES = ("jinja2", "markupsafe")
_RESERVED = ("messages", "add_generation_prompt", "tools", "documents")
# What a template may call the reasoning of an assistant's message; clients send the first.
REASONING = ("reasoning_content", "thinking", "reasoning")
# Errors that a template raises for every message if it raises them for a single word.
_HOPELESS = ("time", "memory", "output", "syntax")
_USUAL = ("system", "user", "assistant", "tool")
_MOST_ROLES = 32  # roles whose form is remembered: callers may invent roles


class ChatRenderer:
    """One template. Threads may share it; renderings run one at a time.

    cpu_s, wall_s: seconds that one rendering may take; memory: bytes of address space of the
    process; most_chars: longest result. special_tokens: more names for the template ("unk_token",
    ..). picture: what stands for a picture in the text of a message, for a template that reads no
    parts.
    """

    def __init__(
        self,
        template: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        special_tokens: Mapping[str, str] | None = None,
        picture: str = "",
        cpu_s: float = 2.0,
        wall_s: float = 10.0,
        memory: int = 512 << 20,
        most_chars: int = 4 << 20,
    ) -> None:
        self._template = template
        tokens = {"bos_token": bos_token, "eos_token": eos_token, **(special_tokens or {})}
        self._tokens = {name: text for name, text in tokens.items() if text}
        self._context = {**self._tokens, "tools": None, "documents": None}
        self._picture = picture
        self._cpu_s = cpu_s
        self._wall_s = wall_s
        limits = (str(cpu_s), str(memory), str(most_chars))
        self._lock = threading.Lock()
        self._child = Confined(_SCRIPT, modules=_MODULES, limits=limits, what="chat template")
        self._forms: dict[str, Form] = {}  # by role, found when the role first occurs
        self._call_form: CallForm | None = None
        self._reasoning = next((name for name in REASONING if _is_read(template, name)), None)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_args: Any,
    ) -> str:
        """The prompt for `messages`. Content is a string or a list of text parts; tool_calls and
        the role `tool` are as in OpenAI's API. tools: JSON schemas of functions, in that form too.

        Raises InvalidRequest for messages that cannot be rendered (with the template's own message
        if it gives one) or that take too much, CheckpointError for a template that is broken or
        tries something that the sandbox forbids.
        """
        taken = [name for name in template_args if name in _RESERVED or name in self._tokens]
        if taken:
            raise InvalidRequest(
                [FieldError(n, "reserved", f"{n} is no template argument") for n in taken]
            )
        given = checked(messages)
        roles = dict.fromkeys(message.role for message in given)
        _json(template_args)
        with self._lock:
            told = {**template_args, "tools": list(tools) if tools else None}
            forms = {role: self._form(role, told) for role in roles}
            calls = None
            if any(message.calls for message in given):
                calls = self._form_of_calls(told)
            context = {
                **self._context,
                **told,
                "messages": [self._formed(message, forms, calls) for message in given],
                "add_generation_prompt": add_generation_prompt,
            }
            answer = self._ask(_json({"context": context}))
        if "text" in answer:
            return answer["text"]
        return _raise(answer["error"], answer["message"])

    def unseen(self, messages: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        """Roles among the rendered messages whose text the template leaves out."""
        roles = dict.fromkeys(message.role for message in checked(messages))
        return tuple(r for r in roles if r in self._forms and not self._forms[r].shown)

    def dropped(self, messages: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        """What else the template leaves out of the rendered messages."""
        told = []
        form = self._call_form
        if form is not None and not form.shown and any(m.get("tool_calls") for m in messages):
            told.append("tool calls")
        if self._reasoning is None and any(m.get(REASONING[0]) for m in messages):
            told.append("the reasoning of earlier answers")
        return tuple(told)

    async def arender(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **template_args: Any,
    ) -> str:
        """`render` without blocking the event loop."""
        import asyncio  # imported late: callers of this have it, others start 0.1 s sooner

        return await asyncio.to_thread(
            self.render, messages, add_generation_prompt=add_generation_prompt, **template_args
        )

    def close(self) -> None:
        """End the child process. The next rendering starts another."""
        self._child.interrupt()  # also where a request waits for it
        with self._lock:
            self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _form(self, role: str, told: Mapping[str, Any]) -> Form:
        """How the template reads messages of `role`. Raises as `render` does if the template cannot
        render even a single word."""
        if role in self._forms:
            return self._forms[role]
        form = find_form(role, self._probe({}))
        if form is None:  # it may need arguments or tools; a form found so is not remembered
            return find_form(role, self._probe(told)) or Form()
        if role in _USUAL or len(self._forms) < _MOST_ROLES:
            self._forms[role] = form
        return form

    def _form_of_calls(self, told: Mapping[str, Any]) -> CallForm:
        """How the template reads tool calls."""
        if self._call_form is None:
            found = find_call_form(SENTINEL, self._probe({}))
            if found is None:
                return find_call_form(SENTINEL, self._probe(told)) or CallForm()
            self._call_form = found
        return self._call_form

    def _formed(
        self, message: Checked, forms: Mapping[str, Form], calls: CallForm | None
    ) -> Message:
        """A message as the template reads it: its content, its calls, its reasoning."""
        read = calls if message.calls else None
        formed = message.formed(forms[message.role], read, self._picture)
        reasoning = formed.pop(REASONING[0], None)
        if reasoning and self._reasoning is not None:
            formed[self._reasoning] = reasoning
        return formed

    def _probe(self, told: Mapping[str, Any]) -> Render:
        """A function that renders test messages: None if the template refuses them."""

        def render(messages: list[Message]) -> str | None:
            given = {"messages": messages, "add_generation_prompt": True}
            answer = self._ask(_json({"context": {**self._context, **told, **given}}))
            if answer.get("error") in _HOPELESS:
                _raise(answer["error"], answer["message"])
            return answer.get("text")

        return render

    def _ask(self, body: str) -> dict[str, str]:
        begun = json.dumps({"template": self._template})[:-1] + ", " + body[1:]
        try:
            return self._child.ask(
                lambda new: [(begun if new else body).encode()], wall_s=self._wall_s
            )
        except TooMuch as e:
            kind, said = {
                "wall time": ("time", f"more than {self._wall_s:g} s"),
                "processor time": ("time", f"more than {self._cpu_s:g} s of processor time"),
                "memory": ("memory", ""),
            }[e.limit]
            return {"error": kind, "message": said}


def _is_read(template: str, name: str) -> bool:
    """Whether a template reads a message's field of that name."""
    return re.search(rf"\.{name}\b|['\"]{name}['\"]", template) is not None


def _json(value: Any) -> str:
    """`value` as JSON. Raises InvalidRequest if JSON cannot represent it."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as e:
        raise _refused("messages", "json", "messages and template arguments must be JSON") from e


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
        "undefined": f"the chat template needs something that these messages lack ({message})",
        "time": f"the chat template takes {message} for these messages",
        "memory": "the chat template needs too much memory for these messages",
        "output": "the chat template makes too long a prompt from these messages",
        "other": f"the chat template fails on these messages ({message})",
    }
    raise _refused("messages", "chat template", said[kind])
