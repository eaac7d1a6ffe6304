"""A request's prompt after it is tokenized: reused for other answers to it, and to start an
answer."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from rbee_worker.session.prepare import encoded, rendered
from rbee_worker.types import Request, Started, Token

if TYPE_CHECKING:
    from rbee_worker.session.client import EngineClient
    from rbee_worker.tokenizer.core import Tokenizer

INLINE = 4096  # ids that are read without a thread


def of_ids(request: Request, started: Started) -> Request:
    """`request` with its prompt replaced by the ids that the same prompt has become."""
    place = None if request.messages is None else started.place
    return msgspec.structs.replace(
        request,
        place=place,
        prompt=None,
        messages=None,
        token_ids=started.prompt_ids,
        template_args={},
        add_generation_prompt=None,
        continue_final_message=None,
        add_special_tokens=None,
    )


def prompt_tokens(engine: EngineClient, request: Request) -> int:
    """The number of tokens of a conversation, pictures included. May take long. Raises
    InvalidRequest."""
    rules = engine.rules
    chat = engine.renderer(tools=bool(request.chat.offered))
    assert chat is not None
    text = rendered(request, chat, rules)
    if engine.pictures is not None:
        tiles = engine.pictures.read(request.pictures)
        text = engine.pictures.written(text, tiles, "messages")
    return len(encoded(engine.tokenizer, text, False)[0])


async def echo(tokenizer: Tokenizer, request: Request, started: Started) -> Token:
    """The prompt as the first text of the answer; its tokens come before position 0."""
    ids = started.prompt_ids
    text = request.prompt
    if text is None:
        decode = partial(tokenizer.decode, list(ids), skip_special=False)
        text = decode() if len(ids) <= INLINE else await asyncio.to_thread(decode)
    return Token(t=text, i=-len(ids), ids=ids)
