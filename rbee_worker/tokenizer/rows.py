"""Whether every id that a tokenizer can give has a row in the model's embedding table.

A tokenizer may know more tokens than its model was made with: pictures in a text-only Gemma 3, a
token that someone added. Such an id has no row to look up, so a prompt with one is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.tokenizer.core import Tokenizer

_SHOWN = 3


def rows_note(tokenizer: Tokenizer, rows: int) -> tuple[str, ...]:
    """What to tell a person of tokens beyond the table, () where there are none."""
    beyond = [i for i in range(rows, tokenizer.vocab_size) if tokenizer.has(i)]
    if not beyond:
        return ()
    names = ", ".join(f"{tokenizer.token_text(i)[:40]!r} ({i})" for i in beyond[:_SHOWN])
    more = f" and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
    opens = ""
    if tokenizer.bos_id is not None and tokenizer.bos_id in beyond:
        opens = "; one of them opens every plain prompt"
    return (
        f"the model has {rows} rows for tokens, the tokenizer knows {len(beyond)} tokens beyond "
        f"them: {names}{more}; a prompt with one is refused{opens}",
    )


def check_rows(ids: Iterable[int], tokenizer: Tokenizer, rows: int, field: str) -> None:
    """Raise InvalidRequest, naming the token, where one of `ids` has no row. field: of a request,
    where the ids come from."""
    beyond = next((i for i in ids if i >= rows), None)
    if beyond is None:
        return
    text = tokenizer.token_text(beyond)[:80]
    what = f"the token {text!r} (id {beyond})" if text else f"id {beyond}, which is no token,"
    message = f"has {what} for which this model has no row: its ids are 0 to {rows - 1}"
    raise InvalidRequest([FieldError(field, f"tokens with ids 0 to {rows - 1}", message)])
