"""Checks one request against its model: the prompt's form and every parameter, all faults at once.

This is the only checker. The engine's client runs it on every request, from any source. The server
also runs it on requests whose envelope it refuses, so that their other faults are reported too.
Nothing is tokenized here, and no fault quotes the prompt's text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.params.conversation import budget_faults, conversation_faults
from rbee_worker.params.parameter import Surface
from rbee_worker.params.pictures import picture_faults
from rbee_worker.params.resolve import report, resolve
from rbee_worker.params.rules import Rules
from rbee_worker.types import Request, Resolved

PROMPTS = ("prompt", "messages", "token_ids")  # a request has exactly one of these
MOST_VALUES = 4096  # values in template_args, at all levels
MOST_DEPTH = 32
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


def check_request(request: Request, rules: Rules) -> Resolved:
    """Every parameter with its origin. Raises InvalidRequest with all faults of the request.

    The number of the prompt's tokens is not known yet; `fit` checks it.
    """
    faults = prompt_faults(request, rules) + picture_faults(request, rules)
    unread, found = _template_faults(request, rules)
    faults += found + conversation_faults(request, rules)
    try:
        resolved = resolve(
            request.params,
            surface=request.surface,
            vocab_size=rules.vocab_size,
            context=rules.context,
            worker=rules.worker,
            generation=rules.generation,
            template_exempt=rules.exempt_ids,
            eos=rules.eos,
            turn_stops=() if request.messages is None else rules.turn_stops,
            lenient=rules.lenient,
            chat=request.surface == "chat" or request.chat.chat_defaults,
        )
    except InvalidRequest as error:
        raise InvalidRequest(faults + error.errors) from None
    if resolved.params.echo and request.surface == "chat" and resolved.params.logprobs is not None:
        message = "together with logprobs is for completions and jobs: a chat answer has no place"
        faults.append(FieldError("echo", "without logprobs", f"{message} for the prompt's scores"))
    faults += budget_faults(request, resolved.params, rules)
    if request.constraint is not None:  # of the route
        if resolved.params.constraint is not None:
            message = "cannot be held together with the form that the rest of the request asks for"
            faults.append(FieldError(resolved.constraint_field, "one constraint", message))
        resolved = replace(
            resolved,
            params=replace(resolved.params, constraint=request.constraint),
            origins={**resolved.origins, "constraint": "request"},
            constraint_field="constraint",
        )
    if faults:
        raise InvalidRequest(faults)
    return replace(resolved, ignored=resolved.ignored + unread)


def defaults_of(
    rules: Rules, surface: Surface, *, chat: bool | None = None
) -> dict[str, dict[str, Any]]:
    """The sampling parameters of a request that gives none: name -> {"value", "origin"}. chat: with
    the defaults of chats; None: on the chat surface."""
    told: dict[str, dict[str, Any]] = report(
        resolve(
            {},
            surface=surface,
            vocab_size=rules.vocab_size,
            context=rules.context,
            worker=rules.worker,
            generation=rules.generation,
            turn_stops=rules.turn_stops if chat or surface == "chat" else (),
            chat=chat,
        )
    )
    if told["seed"]["origin"] == "random":  # another one for each request
        told["seed"]["value"] = None
    return told


def prompt_faults(request: Request, rules: Rules, *, name: str | None = None) -> list[FieldError]:
    """The faults of the prompt, which must be exactly one of three, not empty, not far too long
    unless it may be cut, and with ids of the vocabulary only. name: the caller's name for the
    prompt, if it is not the field's name (or "prompt", which may be of any kind on the completions
    surface)."""
    given = [key for key in PROMPTS if getattr(request, key) is not None]
    if len(given) != 1:
        what = " and ".join(given) or "none of them"
        message = f"exactly one of prompt, messages and token_ids is needed; given: {what}"
        return [FieldError(name or "prompt", "exactly one of three", message)]
    key = given[0]
    name = name or ("prompt" if request.surface == "completions" else key)
    value = getattr(request, key)
    if not value:
        return [FieldError(name, "length >= 1", "is empty")]
    if key == "token_ids":
        most = len(value) if request.truncate else rules.context
        return id_faults(name, value, most=most, vocab_size=rules.vocab_size)
    faults = []
    if key == "messages":
        faults += _message_faults(name, value)
        if rules.template is None:
            message = "this model has no chat template; use prompt"
            faults.append(FieldError(name, "a model with a chat template", message))
    if request.truncate:
        return faults
    return faults + length_faults(name, characters(value), rules.most_characters)


def length_faults(name: str, size: int, most: int) -> list[FieldError]:
    """The fault of a text of `size` characters, if it has more than `most`."""
    if size <= most:
        return []
    message = f"has {size} characters and the limit is {most}"
    return [FieldError(name, f"length <= {most}", message)]


def id_faults(name: str, ids: Sequence[int], *, most: int, vocab_size: int) -> list[FieldError]:
    """The fault of ids, if there are more than `most`, or one is not below `vocab_size`."""
    if len(ids) > most:
        return [FieldError(name, f"<= {most} ids", f"has {len(ids)} ids; the limit is {most}")]
    for place, token in enumerate(ids):
        if type(token) is not int or not 0 <= token < vocab_size:
            message = f"entry {place} is no id of the vocabulary of {vocab_size}"
            return [FieldError(name, f"ids 0 to {vocab_size - 1}", message)]
    return []


def characters(value: Any) -> int:
    """The characters of a text, or of the contents of all messages in a conversation."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):  # a message, or one part of its content
        return characters(value.get("content", value.get("text")))
    if isinstance(value, list | tuple):
        return sum(characters(item) for item in value)
    return 0


def _template_faults(request: Request, rules: Rules) -> tuple[tuple[str, ...], list[FieldError]]:
    """Checks the arguments of the chat template and the tokenizer: (names that --lenient lets
    through, faults). A variable that the template never reads has no effect and is a fault."""
    faults = []
    template = rules.template_for(request)
    chat = request.messages is not None
    turn = (request.add_generation_prompt, request.continue_final_message)
    for name, value in zip(("add_generation_prompt", "continue_final_message"), turn, strict=True):
        if value is not None and not chat:
            faults.append(FieldError(name, "with messages", "means nothing without messages"))
    if turn == (True, True):
        message = "cannot be true together with add_generation_prompt"
        faults.append(FieldError("continue_final_message", "one of the two", message))
    if request.add_special_tokens is not None and request.token_ids is not None:
        message = "means nothing for a prompt of ids"
        faults.append(FieldError("add_special_tokens", "with text", message))
    given = request.template_args
    if given and not chat:
        faults.append(
            FieldError("template_args", "with messages", "means nothing without messages")
        )
    elif not within(given, most=MOST_VALUES, depth=MOST_DEPTH):
        limit = f"<= {MOST_VALUES} values, {MOST_DEPTH} levels"
        message = f"is too large: at most {MOST_VALUES} values and {MOST_DEPTH} levels of nesting"
        return (), [*faults, FieldError("template_args", limit, message)]
    elif given and rules.template is not None:
        words = set(re.findall(r"\w+", template))
        for name in RESERVED.intersection(given):
            message = "is no variable of the template, but a field of the request"
            faults.append(FieldError(f"template_args.{name}", "another name", message))
        unread = [name for name in given if name not in words and name not in RESERVED]
        if rules.lenient:
            return tuple(f"template_args.{name[:64]}" for name in unread), faults
        for name in unread:
            where, message = f"template_args.{name[:64]}", "is not read by the chat template"
            faults.append(FieldError(where, "a variable of the template", message))
    return (), faults


def within(value: Any, *, most: int, depth: int) -> bool:
    """Whether a JSON value contains at most `most` values, on at most `depth` levels."""
    level = [value]
    while level and depth >= 0:
        most -= len(level)
        if most < 0:
            return False
        inner: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                inner += item.values()
            elif isinstance(item, list | tuple):
                inner += item
        level, depth = inner, depth - 1
    return not level


def _message_faults(name: str, messages: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    """Only an assistant's message may lack content."""
    return [
        FieldError(f"{name}[{place}].content", "required", "is required")
        for place, message in enumerate(messages)
        if message.get("content") is None and message.get("role") != "assistant"
    ]
