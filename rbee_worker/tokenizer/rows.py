"""Checks that every id that a tokenizer can give has a row in the model's embedding table.

A tokenizer may know more tokens than its model has rows: image tokens in a text-only Gemma 3, or a
token that somebody added. Such an id cannot be looked up, so a prompt that contains it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.tokenizer.core import Tokenizer

_SHOWN = 3


def rows_note(tokenizer: Tokenizer, rows: int) -> tuple[str, ...]:
    """Notes for the user on tokens beyond the table, () if there are none."""
    beyond = [i for i in range(rows, tokenizer.vocab_size) if tokenizer.has(i)]
    if not beyond:
        return ()
    names = ", ".join(f"{tokenizer.token_text(i)[:40]!r} ({i})" for i in beyond[:_SHOWN])
    more = f" and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
    opens = ""
    if tokenizer.bos_id is not None and tokenizer.bos_id in beyond:
        opens = "; one of them opens every plain prompt"
    return (
        f"the model has {rows} rows for tokens, but the tokenizer has {len(beyond)} tokens beyond "
        f"them: {names}{more}; a prompt with one is refused{opens}",
    )


def check_rows(ids: Iterable[int], tokenizer: Tokenizer, rows: int, field: str) -> None:
    """Raise InvalidRequest, which names the token, if one of `ids` has no row. field: the request's
    field that the ids come from."""
    beyond = next((i for i in ids if i >= rows), None)
    if beyond is None:
        return
    text = tokenizer.token_text(beyond)[:80]
    what = f"the token {text!r} (id {beyond})" if text else f"id {beyond}, which is no token,"
    message = f"has {what} for which this model has no row: its ids are 0 to {rows - 1}"
    raise InvalidRequest([FieldError(field, f"tokens with ids 0 to {rows - 1}", message)])
