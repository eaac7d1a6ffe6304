"""`Request` -> ids and resolved parameters, or one error that lists everything that is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from rbee_worker.config import Settings
from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.params import Rules, check_request, fit
from rbee_worker.session.text import TextSide
from rbee_worker.types import ModelInfo, Request, Resolved

INLINE_CHARS = 2000  # a prompt that is longer is tokenized off the event loop
INLINE_IDS = 8192  # a list of ids that is longer is checked there too


@dataclass(frozen=True)
class Prepared:
    """A request that can be run."""

    prompt_ids: tuple[int, ...]
    resolved: Resolved


def is_quick(request: Request) -> bool:
    """May this be prepared on the event loop? Chat templates and long prompts take their time."""
    return (
        request.messages is None
        and len(request.prompt or "") <= INLINE_CHARS
        and len(request.token_ids or ()) <= INLINE_IDS
    )


def rules_of(text: TextSide, info: ModelInfo, settings: Settings) -> Rules:
    """What requests to this model are held to."""
    return Rules(
        context=info.context,
        vocab_size=info.vocab_size,
        characters_per_token=settings.max_prompt_ratio,
        template=None if text.chat is None else text.tokenizer.chat_template,
        generation=text.generation if settings.generation_config else {},
        exempt_ids=text.exempt_ids,
        eos=text.eos,
        lenient=settings.lenient,
    )


def prepare(request: Request, text: TextSide, rules: Rules) -> Prepared:
    """Check, render, tokenize. Raises InvalidRequest with all faults that can be known together:
    those of `check_request`; then those of the prompt's length."""
    resolved = check_request(request, rules)
    ids = _encode(request, text)
    if not ids:
        raise InvalidRequest([FieldError("prompt", "not empty", "the prompt has no tokens")])
    params = fit(resolved, len(ids), rules.context)
    return Prepared(ids, msgspec.structs.replace(resolved, params=params))


def _encode(request: Request, text: TextSide) -> tuple[int, ...]:
    if request.token_ids is not None:
        return request.token_ids
    if request.messages is not None:
        assert text.chat is not None
        rendered = text.chat.render(list(request.messages), **request.template_args)
        return tuple(text.tokenizer.encode(rendered, add_special=False))
    assert request.prompt is not None
    return tuple(text.tokenizer.encode(request.prompt))
