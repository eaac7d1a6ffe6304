"""`Request` -> ids and resolved parameters, or one error that lists everything that is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from rbee_worker.config import Settings
from rbee_worker.engine.text import TextSide
from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.params import fit, resolve
from rbee_worker.types import ModelInfo, Request, Resolved

INLINE_CHARS = 2000  # a prompt that is longer is tokenized off the event loop


@dataclass(frozen=True)
class Prepared:
    """A request that can be run."""

    prompt_ids: tuple[int, ...]
    resolved: Resolved


def is_quick(request: Request) -> bool:
    """May this be prepared on the event loop? Chat templates and long prompts take their time."""
    return request.messages is None and len(request.prompt or "") <= INLINE_CHARS


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
    params = fit(resolved, len(ids), info.context)
    return Prepared(ids, msgspec.structs.replace(resolved, params=params))


def _form(
    request: Request, text: TextSide, info: ModelInfo, settings: Settings
) -> list[FieldError]:
    given = {
        "prompt": request.prompt,
        "messages": request.messages,
        "token_ids": request.token_ids,
    }
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        what = f"{' and '.join(names)} are given" if names else "none is given"
        message = f"give exactly one of prompt, messages and token_ids; {what}"
        return [FieldError(names[0] if names else "prompt", "exactly one", message)]
    faults = []
    longest = settings.max_prompt_ratio * info.context
    if request.prompt == "":
        faults.append(FieldError("prompt", "at least 1 character", "the prompt is empty"))
    if request.prompt is not None and len(request.prompt) > longest:
        message = f"{len(request.prompt)} characters; at most {longest} are read"
        faults.append(FieldError("prompt", f"at most {longest} characters", message))
    if request.messages is not None and text.chat is None:
        message = "this model has no chat template; use prompt"
        faults.append(FieldError("messages", "needs a chat template", message))
    if request.token_ids is not None:
        faults += _ids(request.token_ids, info.vocab_size)
    return faults


def _ids(ids: tuple[int, ...], vocab_size: int) -> list[FieldError]:
    wrong = [i for i in ids if not 0 <= i < vocab_size]
    if not ids:
        return [FieldError("token_ids", "at least 1 id", "the list is empty")]
    if wrong:
        message = f"{len(wrong)} ids are outside the vocabulary, the first is {wrong[0]}"
        return [FieldError("token_ids", f"0..{vocab_size - 1}", message, wrong[0])]
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
