"""A request for a vector: its text, or two, with what the checkpoint puts before them, as ids."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from rbee_worker.errors import FieldError, InvalidRequest, WrongModel
from rbee_worker.model_info import ModelInfo, Pooling
from rbee_worker.params import Rules, prompt_faults
from rbee_worker.session.prepared import Prepared
from rbee_worker.session.text import TextSide
from rbee_worker.types import Pool, Request, Resolved, SamplingParams

if TYPE_CHECKING:
    from rbee_worker.checkpoint.sentence import Sentence
    from rbee_worker.tokenizer.core import Tokenizer

_ANY = 1 << 30  # tokens: no prompt is cut
_NOTHING_DRAWN = Resolved(params=SamplingParams(max_tokens=0), origins={})


def prepare_vector(request: Request, text: TextSide, rules: Rules) -> Prepared:
    """Check and tokenize. Raises InvalidRequest for a text that is empty or, unless it may be cut,
    too long."""
    faults = prompt_faults(request, rules)
    if request.pair == "":
        faults.append(FieldError("pair", "length >= 1", "is empty"))
    if faults:
        raise InvalidRequest(faults)
    most = longest(text.ckpt.sentence, rules.context)
    second, unread = 0, 0
    warnings: tuple[str, ...] = ()
    if request.token_ids is not None:
        ids, whole = _scored(request, request.token_ids[:most], text), len(request.token_ids)
    elif request.pair is not None and text.pairs is not None and text.pairs.plain:
        made_of, whole, unread = _in_template(request, text, most, rules.most_characters)
        ids = _scored(request, made_of, text)
    else:
        assert request.prompt is not None
        lower = str.lower if text.ckpt.sentence.lower else str
        given = [lower(one) for one in (request.prompt, request.pair) if one is not None]
        read = [_beginning(one, text.tokenizer, most, rules.most_characters) for one in given]
        made = text.tokenizer.encode_texts(read[0], *read[1:], most=most)
        ids, whole = _scored(request, made.ids, text), made.whole
        second = made.second if _tells_apart(text) else 0
        unread = sum(map(len, given)) - sum(map(len, read))
    if whole > most:
        if not request.truncate:
            message = f"has {whole} tokens and the limit is {most}; truncate: true cuts it"
            raise InvalidRequest([FieldError("prompt", f"<= {most} tokens", message)])
        read_too = f" tokens and {unread} characters" if unread else ""
        warnings = (f"cut from {whole}{read_too} to {most} tokens",)
    if not ids:
        raise InvalidRequest([FieldError("prompt", "not empty", "the text has no tokens")])
    from rbee_worker.tokenizer.rows import check_rows  # late: a heavy import

    check_rows(ids, text.tokenizer, rules.vocab_size, "prompt")
    pool = None
    if request.pool is not None and request.pool.without:
        pool = replace(request.pool, without="", first=_tokens_before(request.pool.without, text))
    return Prepared(ids, _NOTHING_DRAWN, warnings, second=second, pool=pool)


def _scored(request: Request, ids: Sequence[int], text: TextSide) -> tuple[int, ...]:
    """The ids up to the last one that is not padding, whose row a decoder's head for classes gets
    in transformers, even where the text itself ends with such ids; one of them if there is nothing
    else."""
    ckpt, pool, end = text.ckpt, request.pool, len(ids)
    if pool is not None and pool.head and ckpt.classifies and ckpt.gguf is None:
        padding = ckpt.config.get("pad_token_id")
        while pool.how == "last" and end > 1 and ids[end - 1] == padding:
            end -= 1
    return tuple(ids[:end])


def _in_template(
    request: Request, text: TextSide, most: int, usual: int
) -> tuple[tuple[int, ...], int, int]:
    """Ids of two texts in the model's template, how many there are if nothing is cut, and the
    characters that were not read. What is cut stands at the end of the second text, of which
    something is left: what the template has behind it stays. usual: see `_beginning`."""
    assert text.pairs is not None
    assert request.prompt is not None
    assert request.pair is not None
    if request.instruction is not None and not text.pairs.instructed:
        message = "the model's template has no place for it"
        raise InvalidRequest([FieldError("instruction", "absent", message)])
    given = [
        one.strip() if name in text.pairs.stripped else one  # before its beginning alone is read
        for name, one in (("query", request.prompt), ("document", request.pair))
    ]
    first, second = (_beginning(one, text.tokenizer, most, usual) for one in given)

    def encoded(written: str) -> tuple[int, ...]:
        return tuple(text.tokenizer.encode(written, add_special=False))

    def asked(document: str) -> tuple[str, str, str]:
        assert text.pairs is not None
        return text.pairs.written(first, document, request.instruction)

    prompt, before, tail = asked(second)
    ids = encoded(prompt)
    unread = sum(map(len, given)) - len(first) - len(second)
    if len(ids) <= most or not request.truncate:
        return ids, len(ids), unread
    end = encoded(tail)
    taken = len(encoded(before)) + len(end)
    if taken < most and ids[len(ids) - len(end) :] == end:
        return ids[: most - len(end)] + end, len(ids), unread
    # One token is of both the text and what follows it: as many characters as fit are left.
    fits = (
        0
        if taken >= most
        else bisect_left(
            range(1, len(second)),
            True,
            key=lambda size: len(encoded(asked(second[:size])[0])) > most,
        )
    )
    if not fits:
        message = (
            f"cannot be cut: the first text and the template have {taken} tokens without it and "
            f"the limit is {most}, so nothing of it would be left"
        )
        raise InvalidRequest([FieldError("prompt", f"<= {most} tokens", message)])
    return encoded(asked(second[:fits])[0]), len(ids), unread


def _beginning(text: str, tokenizer: Tokenizer, most: int, usual: int) -> str:
    """As much of a text as its first `most` tokens need, all of a usual one. usual: characters of
    which a text rarely has more; a longer one is tokenized so far that what stands at the cut is
    far behind those tokens."""
    size = usual
    while size < len(text) and tokenizer.encode_texts(text[:size], most=most).whole < 2 * most:
        size *= 2
    return text[:size]


def _tells_apart(text: TextSide) -> bool:
    """Whether the model gets to know which of two texts a token is of: not if its tokenizer's files
    list what it gives, without that."""
    given = text.ckpt.tokenizer_config.get("model_input_names")
    return not isinstance(given, list) or "token_type_ids" in given


def _tokens_before(prompt: str, text: TextSide) -> int:
    """How many tokens stand before what follows `prompt` in a text, the model's own opening one
    among them: as sentence-transformers counts them, of the prompt alone."""
    shown = prompt.lower() if text.ckpt.sentence.lower else prompt
    ids = text.tokenizer.encode_texts(shown, most=_ANY).ids
    return len(ids) - (bool(ids) and ids[-1] in text.tokenizer.special_ids)


def embedding(
    name: str,
    given: str | tuple[int, ...],
    info: ModelInfo,
    sentence: Sentence,
    *,
    prompt: str | None = None,
    dimensions: int = 0,
    truncate: bool = False,
    timeout_s: float | None = None,
) -> Request:
    """The request for the vector of a text, or of ids, which get no prompt before them.

    prompt: the name of a prompt of the checkpoint, "" for none, None for its default. Raises
    WrongModel, InvalidRequest.
    """
    pooling = info.purpose.pooling
    faults = []
    if dimensions > info.dimensions:
        most = info.dimensions
        message = f"must be at most the model's {most}"
        faults.append(FieldError("dimensions", f"1 to {most}", message, dimensions))
    before = ""
    if isinstance(given, str):
        before, _ = prompted(sentence, prompt, faults)
    elif prompt:
        faults.append(FieldError("prompt_name", "with text", "cannot be put before ids"))
    request = Request(
        id=name,
        prompt=put_before(before, given) if isinstance(given, str) else None,
        token_ids=None if isinstance(given, str) else given,
        pool=pool_of(pooling, sentence, before, dimensions),
        truncate=truncate,
        timeout_s=timeout_s,
    )
    check_purpose(request, info)
    if faults:
        raise InvalidRequest(faults)
    return request


def pool_of(pooling: Pooling, sentence: Sentence, before: str, dimensions: int = 0) -> Pool:
    """How the vector of a text is made. before: what is put before it; dimensions: of its numbers,
    those that are kept; 0: as many as the checkpoint's files say."""
    return Pool(
        how=pooling.how,
        dimensions=dimensions or sentence.dimensions,
        normalize=pooling.normalize,
        without="" if pooling.prompt else before,
    )


def longest(sentence: Sentence, context: int) -> int:
    """The most tokens of a text: the model's, or fewer where its authors cut texts earlier."""
    return min(context, sentence.longest or context)


def prompted(sentence: Sentence, name: str | None, faults: list[FieldError]) -> tuple[str, str]:
    """What is put before a text, and its name: the prompt that is asked for, or the default one. A
    name that the checkpoint does not have is a fault."""
    chosen = sentence.prompt if name is None else name
    if not chosen:
        return "", ""
    if chosen not in sentence.prompts:
        known = ", ".join(sorted(sentence.prompts)) or "none"
        message = f"is not one of the model's prompts ({known})"
        faults.append(FieldError("prompt_name", "a prompt of the model", message))
        return "", ""
    return sentence.prompts[chosen], chosen


def put_before(prompt: str, text: str) -> str:
    """A text behind a prompt; a text that is empty stays so, and is refused as that."""
    return prompt + text if text else ""


def scored_prompt(sentence: Sentence) -> tuple[str, str]:
    """What a cross-encoder's files put before a text, or before the first of two, and its name."""
    return prompted(sentence, None, []) if sentence.pairs else ("", "")


def check_purpose(request: Request, info: ModelInfo) -> None:
    """Raise WrongModel if a model of this kind cannot answer the request."""
    task = info.purpose.task
    if request.pool is None and task != "generate":
        raise not_generating(info)
    if info.purpose.encodes:
        _check_pair(request, info)
    if info.purpose.speaks:
        _check_speech(request, info)
    elif request.speech is not None:
        raise WrongModel(
            f"the model {info.model} does not speak: {MADE_FOR[task]}.",
            fix="ask a worker whose model speaks.",
        )
    pairs = info.purpose.pairs
    asked = request.pair is not None and pairs is not None and pairs.by == "yes-no"
    if request.pool is not None and request.pool.head != (asked or task == "classify"):
        what = "vectors" if task == "classify" else "class scores"
        raise WrongModel(f"the model {info.model} gives no {what}: {MADE_FOR[task]}.")


def _check_pair(request: Request, info: ModelInfo) -> None:
    """Raise WrongModel if a request wants of an encoder and a decoder what they do not have."""
    if request.pool is not None:
        raise WrongModel(
            f"the model {info.model} gives no vectors: its encoder reads prompts for its decoder.",
            fix="ask a worker whose model gives vectors.",
        )
    asked = request.params.get("logprobs")
    scored = asked is not None and asked is not False  # 0: only the token's own
    if request.params.get("echo") is True and scored:
        raise WrongModel(
            f"the model {info.model} gives no scores of prompts: its encoder reads them.",
            fix="leave out echo, or logprobs.",
        )


def _check_speech(request: Request, info: ModelInfo) -> None:
    """Raise WrongModel if a request wants of a model that speaks what it does not have."""
    if request.pool is not None:
        raise WrongModel(
            f"the model {info.model} gives no vectors: it speaks.",
            fix="ask a worker whose model gives vectors.",
        )
    if request.params.get("echo") is True and request.params.get("logprobs") not in (None, False):
        raise WrongModel(
            f"the model {info.model} gives no scores of prompts: it speaks them.",
            fix="leave out echo, or logprobs.",
        )


MADE_FOR = {
    "generate": "it generates text (chat, completions, jobs) and gives vectors (embeddings)",
    "embed": "it gives vectors, for /v1/embeddings, /v1/score and /v1/rerank",
    "classify": "it classifies texts, for /v1/classify, /v1/score and /v1/rerank",
}


def not_generating(info: ModelInfo) -> WrongModel:
    """The error for a request that wants text."""
    return WrongModel(
        f"the model {info.model} generates no text: {MADE_FOR[info.purpose.task]}.",
        fix="ask a worker whose model generates.",
    )
