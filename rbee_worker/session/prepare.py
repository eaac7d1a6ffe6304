"""`Request` -> ids and resolved parameters, or one error that lists everything that is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rbee_worker.config import Settings
from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.params import Rules, check_request, fit
from rbee_worker.session.prepared import Prepared
from rbee_worker.session.text import TextSide
from rbee_worker.session.vectors import prepare_vector
from rbee_worker.tokenizer.continued import Renderer, continued
from rbee_worker.types import ModelInfo, Request

if TYPE_CHECKING:
    from rbee_worker.tokenizer.core import Tokenizer

INLINE_IDS = 8192  # a longer list of ids is checked outside the event loop


def is_quick(request: Request, text: TextSide) -> bool:
    """Whether this may be prepared on the event loop. Chat templates, long prompts and tokenizers
    with patterns of their own take too long."""
    if request.token_ids is not None:
        return len(request.token_ids) <= INLINE_IDS
    return request.messages is None and text.tokenizer.is_quick(
        (request.prompt or "") + (request.pair or "")
    )


def rules_of(text: TextSide, info: ModelInfo, settings: Settings) -> Rules:
    """The rules that requests to this model must follow."""
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
    first those of `check_request`, then that of the prompt's length."""
    if request.pool is not None:
        return prepare_vector(request, text, rules)
    resolved = check_request(request, rules)
    ids, warnings = _encode(request, text)
    if not ids:
        raise InvalidRequest([FieldError("prompt", "not empty", "the prompt has no tokens")])
    from rbee_worker.tokenizer.rows import check_rows  # late: a heavy import

    check_rows(ids, text.tokenizer, rules.vocab_size, _field(request))
    params = fit(resolved, len(ids), rules.context)
    told = (*warnings, *_unseen(request, text))
    return Prepared(ids, msgspec.structs.replace(resolved, params=params), told)


def _field(request: Request) -> str:
    """The field that the prompt's ids come from."""
    given = ("token_ids", "messages", "prompt")
    return next(name for name in given if getattr(request, name) is not None)


def _unseen(request: Request, text: TextSide) -> tuple[str, ...]:
    """Warnings on content that the template does not show the model."""
    if request.messages is None or text.chat is None:
        return ()
    return tuple(
        f"the chat template leaves out the content of {role!r} messages"
        for role in text.chat.unseen(request.messages)
    )


def _encode(request: Request, text: TextSide) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The prompt's ids, and warnings about them."""
    if request.token_ids is not None:
        return request.token_ids, ()
    if request.messages is not None:
        assert text.chat is not None
        special = request.add_special_tokens or False  # the template has written its own tokens
        return encoded(text.tokenizer, rendered(request, text.chat), special)
    assert request.prompt is not None
    return encoded(text.tokenizer, request.prompt, request.add_special_tokens)


def rendered(request: Request, chat: Renderer) -> str:
    """The conversation, rendered by the model's chat template."""
    assert request.messages is not None
    if request.continue_final_message:
        return continued(chat, request.messages, request.template_args)
    opened = request.add_generation_prompt is not False
    return chat.render(request.messages, add_generation_prompt=opened, **request.template_args)


def encoded(
    tokenizer: Tokenizer, text: str, add_special: bool | None, parse_special: bool = True
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The ids of `text`, and a warning if there is one.

    add_special: put the model's opening token before it. None means yes, unless the text itself
    begins with that token, as a conversation rendered elsewhere does: a second one changes answers.
    """
    add = add_special is not False
    ids = tuple(tokenizer.encode(text, add_special=add, parse_special=parse_special))
    opening = tokenizer.bos_id
    if add_special is not None or opening is None or ids[:2] != (opening, opening):
        return ids, ()
    name = tokenizer.token_text(opening)
    warning = f"the prompt begins with {name} itself, so no second one is added"
    return ids[1:], (f"{warning} (add_special_tokens: true adds it)",)
