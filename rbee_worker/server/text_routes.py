"""POST /tokenize, /detokenize, /apply-template, and the tokens of a chat: the model's text side,
without the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.params import Rules, chat_options, check_request, id_faults, length_faults
from rbee_worker.server.body import (
    envelope,
    plain_messages,
    read_object,
    refuse,
    unknown_faults,
)
from rbee_worker.server.encoding import answered
from rbee_worker.server.health import worker_of
from rbee_worker.server.pictures import taken
from rbee_worker.server.problems import json_response
from rbee_worker.server.schemas import (
    Detokenized,
    DetokenizeEnvelope,
    Templated,
    TemplateEnvelope,
    TokenCount,
    Tokenized,
    TokenizeEnvelope,
    TokenPiece,
)
from rbee_worker.session.prepare import encoded, rendered
from rbee_worker.types import Request

if TYPE_CHECKING:
    from rbee_worker.tokenizer.core import Tokenizer


async def tokenize(http: HttpRequest) -> Response:
    worker = worker_of(http)
    body = await read_object(http, worker)
    engine = worker.serving()
    given, rest, faults = envelope(body, TokenizeEnvelope)
    faults += unknown_faults(rest, TokenizeEnvelope)
    if (given.text is None) == (given.content is None) and not faults:
        faults.append(FieldError("text", "exactly one", "give text (or its other name, content)"))
    name, text = ("text", given.text) if given.text is not None else ("content", given.content)
    faults += length_faults(name, len(text or ""), engine.rules.most_characters)
    refuse(faults)
    assert text is not None

    def make() -> Tokenized:
        add = given.add_special
        if add is None and name == "content":
            add = False
        ids, warnings = encoded(engine.tokenizer, text, add, given.parse_special)
        pieces = [engine.tokenizer.token_text(i) for i in ids]
        tokens: list[int | TokenPiece] = list(ids)
        if given.with_pieces:
            tokens = [TokenPiece(id=i, piece=_piece(engine.tokenizer, i)) for i in ids]
        return Tokenized(tokens=tokens, count=len(ids), pieces=pieces, warnings=warnings)

    return await answered(make, len(text), quick=engine.tokenizer.is_quick(text))


async def detokenize(http: HttpRequest) -> Response:
    worker = worker_of(http)
    body = await read_object(http, worker)
    engine = worker.serving()
    given, rest, faults = envelope(body, DetokenizeEnvelope)
    faults += unknown_faults(rest, DetokenizeEnvelope)
    refuse(faults)
    most, vocab = engine.rules.most_characters, engine.tokenizer.vocab_size
    decode = partial(engine.tokenizer.decode, given.tokens, skip_special=given.skip_special)

    def make() -> Detokenized:
        refuse(id_faults("tokens", given.tokens, most=most, vocab_size=vocab))
        text = decode()
        return Detokenized(text, text)

    return await answered(make, len(given.tokens))


def _piece(tokenizer: Tokenizer, token: int) -> str | list[int]:
    """The text of a token, or its bytes where they are none."""
    raw = tokenizer.token_bytes(token) or tokenizer.token_text(token).encode()
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)


async def apply_template(http: HttpRequest) -> Response:
    render, _ = await _conversation(http)
    return json_response(Templated(await asyncio.to_thread(render)))


async def count_input_tokens(http: HttpRequest) -> Response:
    """The tokens of a conversation's prompt, as chats count them."""
    render, tokenizer = await _conversation(http)

    def count() -> TokenCount:
        return TokenCount(input_tokens=len(encoded(tokenizer, render(), False)[0]))

    return json_response(await asyncio.to_thread(count))


async def _conversation(http: HttpRequest) -> tuple[Callable[[], str], Tokenizer]:
    """What renders the conversation of a request, and the tokenizer. Raises InvalidRequest."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    engine = worker.serving()
    given, rest, faults = envelope(body, TemplateEnvelope)
    faults += unknown_faults(rest, TemplateEnvelope)
    told, found = plain_messages(given.messages or [])
    messages, pictures = taken(told)
    faults += found
    request = Request(
        id="",
        messages=messages,
        chat=chat_options(given, body.values.get("tools") or ()),
        template_args=given.template_args,
        add_generation_prompt=given.add_generation_prompt,
        continue_final_message=given.continue_final_message,
        pictures=pictures,
    )
    if not any(f.field.startswith("messages") for f in faults):
        faults += _faults(request, engine.rules)
    refuse(faults)
    chat = engine.renderer(tools=bool(request.chat.offered))
    assert chat is not None
    return partial(rendered, request, chat, engine.rules), engine.tokenizer


def _faults(request: Request, rules: Rules) -> list[FieldError]:
    try:
        check_request(request, rules)
    except InvalidRequest as error:
        return error.errors
    return []
