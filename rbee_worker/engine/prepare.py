"""`Request` -> ids and resolved parameters, or one error that lists everything that is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from rbee_worker.config import Settings
from rbee_worker.engine.text import TextSide
from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.params import check_prompt, fit, resolve
from rbee_worker.types import ModelInfo, Request, Resolved


@dataclass(frozen=True)
class Prepared:
    """A request that can be run. warnings: what the caller should know of it."""

    prompt_ids: tuple[int, ...]
    resolved: Resolved
    warnings: tuple[str, ...] = ()


def is_quick(request: Request, text: TextSide) -> bool:
    """May this be prepared on the event loop? Chat templates, long prompts and tokenizers with
    patterns of their own take their time."""
    if request.token_ids is not None:
        return True
    return request.messages is None and text.tokenizer.is_quick(request.prompt or "")


def prepare(request: Request, text: TextSide, info: ModelInfo, settings: Settings) -> Prepared:
    """Check, render, tokenize, resolve. Raises InvalidRequest with all faults that can be known
    together: those of the parameters and of the prompt's form; then those of its length."""
    faults = _form(request, text, info, settings)
    try:
        resolved = resolve(
            request.params,
            surface=request.surface,
            vocab_size=info.vocab_size,
            context=info.context,
            generation=text.generation if settings.generation_config else {},
            template_exempt=text.exempt_ids,
            eos=text.eos,
            lenient=settings.lenient,
        )
    except InvalidRequest as error:
        raise InvalidRequest(faults + error.errors) from None
    if faults:
        raise InvalidRequest(faults)
    ids = _encode(request, text)
    if not ids:
        raise InvalidRequest([FieldError("prompt", "not empty", "the prompt has no tokens")])
    from rbee_worker.tokenizer.rows import check_rows  # loaded by now, and heavy before

    check_rows(ids, text.tokenizer, info.vocab_size, _field(request))
    params = fit(resolved, len(ids), info.context)
    return Prepared(ids, msgspec.structs.replace(resolved, params=params), _warnings(request, text))


def _field(request: Request) -> str:
    """What the prompt's ids come from."""
    given = ("token_ids", "messages", "prompt")
    return next(name for name in given if getattr(request, name) is not None)


def _warnings(request: Request, text: TextSide) -> tuple[str, ...]:
    if request.messages is None or text.chat is None:
        return ()
    return tuple(
        f"the chat template leaves out what messages of the role {role!r} say"
        for role in text.chat.unseen(request.messages)
    )


def _form(
    request: Request, text: TextSide, info: ModelInfo, settings: Settings
) -> list[FieldError]:
    """What is wrong with the prompt before it is tokenized."""
    try:
        check_prompt(
            request,
            context=info.context,
            vocab_size=info.vocab_size,
            characters_per_token=settings.max_prompt_ratio,
        )
    except InvalidRequest as error:
        return error.errors
    if request.messages is not None and text.chat is None:
        message = "this model has no chat template; use prompt"
        return [FieldError("messages", "a model with a chat template", message)]
    return []


def _encode(request: Request, text: TextSide) -> tuple[int, ...]:
    if request.token_ids is not None:
        return request.token_ids
    if request.messages is not None:
        assert text.chat is not None
        rendered = text.chat.render(list(request.messages), **request.template_args)
        return tuple(text.tokenizer.encode(rendered, add_special=False))
    assert request.prompt is not None
    return tuple(text.tokenizer.encode(request.prompt))
