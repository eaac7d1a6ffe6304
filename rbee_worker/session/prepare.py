"""`Request` -> ids and resolved parameters, or one error that lists everything that is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from rbee_worker.answer import by_name, reads
from rbee_worker.answer.tool_formats import PROMPTED
from rbee_worker.config import Settings
from rbee_worker.constraints.words import Words
from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.model_info import ModelInfo
from rbee_worker.params import (
    Rules,
    asks_for_constraint,
    check_request,
    default_switch,
    fit,
    reasoning_args,
    shown_tools,
)
from rbee_worker.session.answer_grammar import Held, held_answer
from rbee_worker.session.pictures import placed, read_pictures, with_pictures
from rbee_worker.session.prepared import Prepared
from rbee_worker.session.reading import reading_of
from rbee_worker.session.speech import read_aloud, settled, voiced
from rbee_worker.session.text import TextSide
from rbee_worker.session.vectors import prepare_vector
from rbee_worker.tokenizer.continued import Renderer, continued
from rbee_worker.tokenizer.tool_prompt import in_words
from rbee_worker.types import Request, Started

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rbee_worker.pictures.reader import Tiles
    from rbee_worker.tokenizer.chat import ChatRenderer
    from rbee_worker.tokenizer.core import Tokenizer

INLINE_IDS = 8192  # a longer list of ids is checked outside the event loop


def is_quick(request: Request, text: TextSide) -> bool:
    """Whether this may be prepared on the event loop. Chat templates, constraints, pictures, long
    prompts and tokenizers with patterns of their own take too long."""
    if request.constraint is not None or asks_for_constraint(request.params) or request.pictures:
        return False
    if request.token_ids is not None:
        return len(request.token_ids) <= INLINE_IDS
    return request.messages is None and text.tokenizer.is_quick(
        (request.prompt or "") + (request.pair or "")
    )


def rules_of(text: TextSide, info: ModelInfo, settings: Settings) -> Rules:
    """The rules that requests to this model must follow. Raises UsageError if a setting asks for
    what the model cannot do."""
    template = None if text.chat is None else text.tokenizer.chat_template
    tool_template = None if text.chat is None else text.tokenizer.tool_template
    form = text.form
    prompted = settings.tool_format == "prompt"
    if prompted:
        form = replace(form, tools=by_name(PROMPTED))
    elif settings.tool_format != "auto":
        form = replace(form, tools=by_name(settings.tool_format))
    takes = form.tools is not None and (prompted or reads(tool_template or "", "tools"))
    thinking = default_switch(settings.thinking, template, form)
    return Rules(
        context=info.context,
        vocab_size=info.vocab_size,
        characters_per_token=settings.max_prompt_ratio,
        template=template,
        worker=settings.sampling,
        generation=text.generation if settings.generation_config else {},
        exempt_ids=text.exempt_ids,
        eos=text.eos,
        turn_stops=text.tokenizer.turn_stops or text.ckpt.turn_stops,
        lenient=settings.lenient,
        tool_template=tool_template,
        form=form,
        takes_tools=takes and template is not None,
        prompted=prompted,
        pictures=info.purpose.pictures and text.pictures is not None,
        no_pictures=text.no_pictures,
        thinking=thinking,
    )


def prepare(request: Request, text: TextSide, rules: Rules) -> Prepared:
    """Check, render, tokenize. Raises InvalidRequest with all faults that can be known together:
    first those of `check_request`, then that of the prompt's length."""
    if request.pool is not None:
        return prepare_vector(request, text, rules)
    resolved = check_request(request, rules)
    rendering, told = None, list[str]()
    if request.messages is not None:
        chat = text.renderer(tools=bool(request.chat.offered))
        assert chat is not None
        _, told_of_reasoning, _ = reasoning_args(request, rules)
        rendering = rendered(request, chat, rules)
        told = [*told_of_reasoning, *_unseen(request, chat)]
    tiles = read_pictures(request, text)
    if rendering is not None:
        rendering = with_pictures(rendering, tiles, text, "messages")
    ids, warnings = _encode(request, text, rendering, tiles)
    if not ids:
        raise InvalidRequest([FieldError("prompt", "not empty", "the prompt has no tokens")])
    resolved = settled(request, resolved, len(ids), text.speech)
    pictures = placed(ids, tiles, text, _field(request))
    from rbee_worker.tokenizer.rows import check_rows  # late: a heavy import

    check_rows(ids, text.tokenizer, rules.vocab_size, _field(request))
    params = fit(resolved, len(ids), rules.context)
    resolved = msgspec.structs.replace(resolved, params=params)
    reading = reading_of(request, resolved, rules, text.tokenizer, rendering)
    held = _held(held_answer(request, resolved, reading, text.tokenizer), text, rules)
    told = [*warnings, *told]
    made = Prepared(ids, resolved, tuple(told), reading, *held, pictures=pictures)
    return voiced(made, request, text.speech)


def prepare_again(request: Request, started: Started, text: TextSide, rules: Rules) -> Prepared:
    """What `prepare` made of a request in an earlier process: ids and parameters, with the seed,
    are those of its first event. `request` has no prompt; its `place` is that of a conversation.
    Raises InvalidRequest where this worker has no space for all of the answer."""
    resolved, ids = started.sampling, started.prompt_ids
    if len(ids) + resolved.params.max_tokens > rules.context:
        sizes = f"{len(ids)} and {resolved.params.max_tokens} tokens"
        message = f"{sizes} were accepted, and the context is now {rules.context} tokens"
        raise InvalidRequest([FieldError("prompt", "as accepted", message)])
    reading = reading_of(request, resolved, rules, text.tokenizer, None)
    held = _held(held_answer(request, resolved, reading, text.tokenizer), text, rules)
    pictures = placed(ids, read_pictures(request, text), text, "token_ids")
    made = Prepared(ids, resolved, (), reading, *held, pictures=pictures)
    return voiced(made, request, text.speech)


def _held(held: Held, text: TextSide, rules: Rules) -> tuple[str, Words | None]:
    """The grammar of the answer, which can be compiled, and the words that it needs. Raises
    InvalidRequest."""
    constraint, field, parts = held
    if constraint is None:
        return "", None
    if text.constraints is None:
        message = "this model has no vocabulary that a constraint could be held with"
        raise InvalidRequest([FieldError(field, "absent", message)])
    rows = rules.vocab_size
    grammar = text.constraints.grammar(field, constraint, rows, parts)
    return grammar, text.constraints.words(rows)


def _field(request: Request) -> str:
    """The field that the prompt's ids come from."""
    given = ("token_ids", "messages", "prompt")
    return next(name for name in given if getattr(request, name) is not None)


def _unseen(request: Request, chat: ChatRenderer) -> tuple[str, ...]:
    """Warnings on content that the template does not show the model."""
    assert request.messages is not None
    roles = chat.unseen(request.messages)
    hidden = [f"the content of {role!r} messages" for role in roles]
    return tuple(
        f"the chat template leaves out {what}"
        for what in (*hidden, *chat.dropped(request.messages))
    )


def _encode(
    request: Request, text: TextSide, rendering: str | None, tiles: Sequence[Tiles]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The prompt's ids, and warnings about them. rendering: the conversation as text, with the
    texts of its pictures; tiles: the pictures of a prompt that is none."""
    if request.token_ids is not None:
        return request.token_ids, ()
    if rendering is not None:
        special = request.add_special_tokens or False  # the template has written its own tokens
        return encoded(text.tokenizer, rendering, special)
    assert request.prompt is not None
    prompt = with_pictures(read_aloud(request.prompt, text.speech), tiles, text, "prompt")
    return encoded(text.tokenizer, prompt, request.add_special_tokens)


def rendered(request: Request, chat: Renderer, rules: Rules) -> str:
    """The conversation, rendered by the model's chat template."""
    messages = request.messages
    assert messages is not None
    variables, _, _ = reasoning_args(request, rules)
    args = {**request.template_args, **variables}
    tools: list[dict[str, Any]] | None = shown_tools(request.chat.offered) or None
    if rules.prompted:
        messages, tools = in_words(messages, tools or ()), None
    if request.continue_final_message:
        return continued(chat, messages, args, tools)
    opened = request.add_generation_prompt is not False
    return chat.render(messages, add_generation_prompt=opened, tools=tools, **args)


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
