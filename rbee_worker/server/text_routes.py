"""POST /tokenize, /detokenize, /apply-template: the model's text side, without computing."""

from __future__ import annotations

import asyncio

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.errors import FieldError
from rbee_worker.params import id_faults, length_faults, prompt_faults
from rbee_worker.server.body import envelope, plain_messages, read_object, refuse
from rbee_worker.server.health import worker_of
from rbee_worker.server.problems import json_response
from rbee_worker.server.schemas import (
    Detokenized,
    DetokenizeEnvelope,
    Templated,
    TemplateEnvelope,
    Tokenized,
    TokenizeEnvelope,
)
from rbee_worker.types import Request

INLINE = 4096  # characters that are tokenized without a thread


async def tokenize(http: HttpRequest) -> Response:
    worker = worker_of(http)
    body = await read_object(http, worker.settings.max_body_kb * 1024)
    engine = worker.serving()
    given, rest, faults = envelope(body, TokenizeEnvelope)
    faults += unknown(rest)
    if (given.text is None) == (given.content is None) and not faults:
        faults.append(FieldError("text", "exactly one", "give text (or its other name, content)"))
    refuse(faults)
    text = given.text if given.text is not None else given.content
    assert text is not None
    refuse(length_faults("text", len(text), engine.rules.most_characters))
    encode = engine.tokenizer.encode
    special = {"add_special": given.add_special, "parse_special": given.parse_special}
    if len(text) <= INLINE:
        ids = encode(text, **special)
    else:
        ids = await asyncio.to_thread(encode, text, **special)
    pieces = [engine.tokenizer.token_text(i) for i in ids]
    return json_response(Tokenized(tokens=ids, count=len(ids), pieces=pieces))


async def detokenize(http: HttpRequest) -> Response:
    worker = worker_of(http)
    body = await read_object(http, worker.settings.max_body_kb * 1024)
    engine = worker.serving()
    given, rest, faults = envelope(body, DetokenizeEnvelope)
    faults += unknown(rest)
    refuse(faults)
    most = engine.rules.most_characters
    refuse(id_faults("tokens", given.tokens, most=most, vocab_size=engine.tokenizer.vocab_size))
    text = engine.tokenizer.decode(given.tokens, skip_special=given.skip_special)
    return json_response(Detokenized(text))


async def apply_template(http: HttpRequest) -> Response:
    worker = worker_of(http)
    body = await read_object(http, worker.settings.max_body_kb * 1024)
    engine = worker.serving()
    given, rest, faults = envelope(body, TemplateEnvelope)
    faults += unknown(rest)
    messages, found = plain_messages(given.messages or [])
    faults += found
    if not any(f.field == "messages" for f in faults):
        faults += prompt_faults(Request(id="", messages=messages), engine.rules)
    refuse(faults)
    assert engine.chat is not None
    prompt = await asyncio.to_thread(
        engine.chat.render,
        messages,
        add_generation_prompt=given.add_generation_prompt,
        **given.template_args,
    )
    return json_response(Templated(prompt))


def unknown(rest: dict[str, object]) -> list[FieldError]:
    """A fault for every key that this route does not know."""
    return [FieldError(name, "absent", "is not known here") for name in rest]
