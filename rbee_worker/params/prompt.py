"""The prompt's own rules, checked before anything is tokenized. Never repeats its text."""

from __future__ import annotations

from typing import Any

from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.types import Request

CHARACTERS_PER_TOKEN = 16  # a prompt of more characters than this a token of context cannot fit


def check_prompt(
    request: Request,
    *,
    context: int,
    vocab_size: int,
    characters_per_token: int = CHARACTERS_PER_TOKEN,
) -> None:
    """Exactly one of prompt, messages and token_ids, not empty, not absurdly long, ids in range.

    Raises InvalidRequest with the sizes. What the tokens come to is `fit`'s business.
    """
    given = {
        name: value
        for name in ("prompt", "messages", "token_ids")
        if (value := getattr(request, name)) is not None
    }
    if len(given) != 1:
        what = " and ".join(given) or "none of them"
        message = f"exactly one of prompt, messages and token_ids is needed; given: {what}"
        raise InvalidRequest([FieldError("prompt", "exactly one of three", message)])
    [(name, value)] = given.items()
    errors = []
    if not value:
        errors.append(FieldError(name, "not empty", "must not be empty"))
    limit = characters_per_token * context
    size = _characters(value)
    if name != "token_ids" and size > limit:
        message = f"has {size} characters; at most {limit} can be worth tokenizing"
        errors.append(FieldError(name, f"<= {limit} characters", message))
    if name == "token_ids":
        errors += _ids(value, context, vocab_size)
    if errors:
        raise InvalidRequest(errors)


def _characters(value: Any) -> int:
    """Characters of a text, or of all texts in a conversation."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_characters(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_characters(item) for item in value)
    return 0


def _ids(ids: tuple[int, ...], context: int, vocab_size: int) -> list[FieldError]:
    if len(ids) > context:
        message = f"has {len(ids)} ids; the context holds {context} tokens"
        return [FieldError("token_ids", f"<= {context} ids", message)]
    for i, token in enumerate(ids):
        if type(token) is not int or not 0 <= token < vocab_size:
            message = f"entry {i} is no id of the vocabulary of {vocab_size}"
            return [FieldError("token_ids", f"ids 0 to {vocab_size - 1}", message)]
    return []
