"""Resolves a caller's parameters into `SamplingParams`, each value with its origin; nothing is
silently ignored.

An absent parameter, or null, takes the default that the worker was started with, or else the
model's own from generation_config.json, or else the table's: in a chat some parameters have a
default of their own. Origins are "request", "worker option", "generation_config", "default",
"worker default (chat)", for a seed "random", and for the stop strings of a chat format
"chat_format".
"""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from rbee_worker.errors import MOST_FAULTS, FieldError, InvalidRequest
from rbee_worker.params.check import check, same, shown
from rbee_worker.params.constraint import read_constraint
from rbee_worker.params.foreign import asked
from rbee_worker.params.parameter import REST, SURFACES, Parameter, Surface
from rbee_worker.params.table import PARAMETERS, names
from rbee_worker.types import Constraint, EosToken, Resolved, SamplingParams

CHAT_DEFAULT = "worker default (chat)"
WORKER_OPTION = "worker option"
_SEED_BITS = 53  # a random seed survives a JSON reader that has only doubles
_MOST_IGNORED = 64  # unknown names that --lenient lets through: the caller is told of all of them
_MOST_NAME = 64  # characters of a name that a fault quotes
MOST_GUESSES = 16  # unknown names for which the nearest known one is searched, which takes time
NOTHING: Mapping[str, int | float] = MappingProxyType({})
_NAMES = {surface: names(surface) for surface in SURFACES}


def resolve(
    request_params: Mapping[str, Any],
    *,
    surface: Surface,
    vocab_size: int,
    context: int,
    generation: Mapping[str, Any],
    template_exempt: Iterable[int] = (),
    eos: Sequence[EosToken] = (),
    turn_stops: tuple[str, ...] = (),
    lenient: bool = False,
    chat: bool | None = None,
    worker: Mapping[str, int | float] = NOTHING,
) -> Resolved:
    """Every parameter's value and origin. Raises InvalidRequest with all offending fields.

    request_params: what `split` leaves for this surface; worker: defaults that the worker was
    started with; generation: the model's
    generation_config.json ({} to ignore it); turn_stops: stop strings if the request gives none;
    lenient: return unknown keys in `Resolved.ignored` instead of refusing them (64 of them, of up
    to 64 characters). chat: the defaults are those of chats; None: on the chat surface. A key that
    is known but not implemented is always refused. `fit` checks `max_tokens` against the prompt.
    """
    errors: list[FieldError] = []
    ignored: list[str] = []
    unknown = 0
    constraint: tuple[str, Constraint] | None = None
    given: dict[str, Any] = {}  # parameter name -> value
    used: dict[str, str] = {}  # parameter name -> the key that gave it
    known = _NAMES[surface]
    for key, value in request_params.items():
        parameter = known.get(key)
        if parameter is None and lenient and len(key) <= _MOST_NAME:
            ignored.append(key)
        elif parameter is None:
            unknown += 1
            if unknown > MOST_FAULTS:
                errors.append(errors[-1])  # counted only: the further ones are not listed
            else:
                errors.append(_unknown(key, surface, known if unknown <= MOST_GUESSES else {}))
        elif value is None or parameter.role == "inert":
            continue
        elif parameter.role == "constraint":
            read = read_constraint(key, value)
            if isinstance(read, FieldError):
                errors.append(read)
            elif read is not None and constraint is not None:
                message = "is a second constraint on the answer: give one"
                errors.append(FieldError(key, "one constraint", message))
            else:
                constraint = read or constraint
        elif parameter.role != "sampling":
            errors += _refused(parameter, key, value)
        elif parameter.name in used:
            both = f"{used[parameter.name]} and {key}"
            errors.append(FieldError(key, "one name", f"{both} are the same parameter: give one"))
        else:
            used[parameter.name] = key
            checked = _checked(parameter, key, value, request_params, vocab_size, context)
            if isinstance(checked, FieldError):
                errors.append(checked)
            else:
                given[parameter.name] = checked
    if len(ignored) > _MOST_IGNORED:
        message = f"{len(ignored)} keys are unknown; --lenient ignores {_MOST_IGNORED} of them"
        errors.append(FieldError(ignored[0], f"<= {_MOST_IGNORED} unknown keys", message))
    defaults, _ = generation_defaults(generation, context=context)
    chat = surface == "chat" if chat is None else chat
    values, origins = _merge(known, given, worker, defaults, context, chat=chat)
    if turn_stops and origins.get("stop") == "default":
        values["stop"], origins["stop"] = turn_stops, "chat_format"
    where, values["constraint"] = constraint or ("", None)
    origins["constraint"] = "request" if where else "default"
    errors += _together(given, used, values, surface)
    if errors:
        raise InvalidRequest(errors)
    return Resolved(
        params=SamplingParams(**values),
        origins=origins,
        constraint_field=where,
        ignored=tuple(ignored),
        exempt_ids=tuple(sorted({*template_exempt, *(token.id for token in eos)})),
    )


def _checked(
    parameter: Parameter,
    key: str,
    value: Any,
    request: Mapping[str, Any],
    vocab_size: int,
    context: int,
) -> Any:
    if parameter.name == "max_tokens" and same(value, 0) and request.get("echo") is True:
        return 0  # the caller wants only the prompt
    return check(parameter, key, value, vocab_size=vocab_size, context=context)


def _unknown(key: str, surface: Surface, known: Mapping[str, Parameter]) -> FieldError:
    """The error for a key without a row. The value is not quoted: it may be a misspelt prompt.

    known: the names among which the nearest is searched.
    """
    elsewhere = [s for s in SURFACES if s != surface and key in _NAMES[s]] if known else []
    hint = f"; it exists for {', '.join(elsewhere)}" if elsewhere else nearest(key, known)
    message = f"is not a parameter of {surface}{hint}"
    return FieldError(key[:_MOST_NAME], "a known parameter", message)


def nearest(key: str, known: Iterable[str]) -> str:
    """ "; did you mean top_p?" if a known name is similar to `key`, else ""."""
    near = similar(key, known)
    return f"; did you mean {near}?" if near else ""


def similar(key: str, known: Iterable[str]) -> str:
    """The known name that is most like `key`, or "" if none is."""
    near = difflib.get_close_matches(key, known, n=1) if len(key) <= _MOST_NAME else []
    return near[0] if near else ""


def _refused(parameter: Parameter, key: str, value: Any) -> list[FieldError]:
    if parameter.role == "transport":
        return [FieldError(key, "read by the route", "is not a sampling parameter")]
    if any(same(value, off) for off in parameter.off):
        return []
    accepted = " or ".join(["null", *(_json(off) for off in parameter.off)])
    message = f"{parameter.meaning}: not implemented; only {accepted} is accepted"
    value = shown(value) if isinstance(value, int | float) else None
    return [FieldError(key, f"{accepted} (not implemented)", message, value)]


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _merge(
    known: Mapping[str, Parameter],
    given: Mapping[str, Any],
    worker: Mapping[str, int | float],
    model: Mapping[str, Any],
    context: int,
    *,
    chat: bool,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The value and the origin of every field of SamplingParams."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for parameter in known.values():
        name = parameter.name
        if parameter.role != "sampling" or name in values:
            continue
        if name in given:
            values[name], origins[name] = given[name], "request"
        elif name in worker:
            off = worker[name] in parameter.off
            values[name] = parameter.default if off else worker[name]
            origins[name] = WORKER_OPTION
        elif name in model:
            values[name], origins[name] = model[name], "generation_config"
        elif chat and parameter.chat is not None:
            values[name], origins[name] = parameter.chat, CHAT_DEFAULT
        else:
            values[name], origins[name] = parameter.default, "default"
    if values["seed"] is None:
        values["seed"], origins["seed"] = secrets.randbits(_SEED_BITS), "random"
    if values["max_tokens"] in (None, REST):
        values["max_tokens"] = context
    if "top_logprobs" in values:  # chat: logprobs is a switch, top_logprobs a number
        top = values.pop("top_logprobs")
        origins.pop("top_logprobs")
        values["logprobs"] = top if values["logprobs"] else None
    return values, origins


def _together(
    given: Mapping[str, Any], used: Mapping[str, str], values: Mapping[str, Any], surface: Surface
) -> list[FieldError]:
    """Errors of parameters that are valid alone but not together."""
    errors = []
    if surface == "chat" and given.get("top_logprobs") and not given.get("logprobs"):
        message = "needs logprobs: true"
        errors.append(FieldError("top_logprobs", message, message, given["top_logprobs"]))
    least, most = given.get("min_tokens", 0), values["max_tokens"]
    wrong = used.keys() - given.keys()  # these already have errors of their own
    if least > most and "max_tokens" not in wrong:
        message = f"must be at most max_tokens, which is {most}"
        errors.append(FieldError("min_tokens", "min_tokens <= max_tokens", message, least))
    return errors


def generation_defaults(
    generation: Mapping[str, Any], *, context: int = 1 << 62
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The model's own defaults from generation_config.json, and a note on each that is not applied.

    temperature, top_p, top_k, min_p and repetition_penalty apply whether or not the file has
    `do_sample`: a served model samples by default, and a file that has a temperature means it. Only
    an explicit `"do_sample": false` means temperature 0; the file's other sampling values then do
    not apply, as in transformers (its repetition penalty does). Defaults that transformers adds
    itself (top_k 50) are not used, nor are length limits; a limit that would cut an answer short is
    noted.
    """
    values: dict[str, Any] = {}
    notes: list[str] = []
    for parameter in PARAMETERS:
        value = generation.get(parameter.name) if parameter.generation else None
        if value is None:
            continue
        checked = check(parameter, parameter.name, value, vocab_size=0, context=context)
        if isinstance(checked, FieldError):
            notes.append(
                f"generation_config.json: {parameter.name} {checked.message}; "
                f"{parameter.default} is used"
            )
        else:
            values[parameter.name] = checked
    if generation.get("do_sample") is False:
        for name in ("top_p", "top_k", "min_p"):
            values.pop(name, None)
        values["temperature"] = 0.0
    applied = [parameter.name for parameter in PARAMETERS if parameter.generation]
    return values, (*notes, *asked(generation, applied, context))


def report(resolved: Resolved) -> dict[str, Any]:
    """Name -> {"value", "origin"}, in the form of `started.sampling` and --json; what the
    surface of the request has no parameter for is left out."""
    shown_as = {
        name: {"value": value, "origin": resolved.origins[name]}
        for name, value in asdict(resolved.params).items()
        if name in resolved.origins  # a parameter of this surface
    }
    exempt: dict[str, Any] = {"value": resolved.exempt_ids, "origin": "model"}
    return {**shown_as, "repetition_exempt_ids": exempt}


def fit(resolved: Resolved, prompt_tokens: int, context: int) -> SamplingParams:
    """The parameters, with `max_tokens` checked against what the prompt leaves of the context.

    A default is reduced to what is left. A value that the caller gave is refused if it does not fit
    (InvalidRequest with both sizes), and so is a prompt that leaves no space for a token.
    """
    params, left = resolved.params, context - prompt_tokens
    asked = resolved.origins.get("max_tokens") == "request"
    need = min(params.max_tokens, 1) if not asked else params.max_tokens
    if left < need:
        sizes = f"prompt of {prompt_tokens} tokens"
        if left < min(need, 1):
            limit = "shorten the prompt"
            message = f"{sizes} leaves no space in the context of {context} tokens: {limit}"
            raise InvalidRequest([FieldError("prompt", f"< {context} tokens", message)])
        message = (
            f"{sizes} and max_tokens {params.max_tokens} exceed the context of {context} tokens: "
            f"at most {left} are left"
        )
        raise InvalidRequest([FieldError("max_tokens", f"1 to {left}", message, params.max_tokens)])
    params = replace(params, max_tokens=min(params.max_tokens, left))
    if params.min_tokens > params.max_tokens:
        message = f"must be at most the {params.max_tokens} tokens that are left in the context"
        constraint = "min_tokens <= max_tokens"
        raise InvalidRequest([FieldError("min_tokens", constraint, message, params.min_tokens)])
    return params
