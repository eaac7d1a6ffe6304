"""How well two texts go together, as a number.

A classifier with one class reads both texts together (a cross-encoder), and the score is that
class's. Any other model gives each text a vector, and the score is the cosine of the two.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import mul

from msgspec.structs import replace
from starlette.requests import Request as HttpRequest

from rbee_worker.errors import FieldError, WrongModel
from rbee_worker.params import prompt_faults
from rbee_worker.server.body import refuse
from rbee_worker.server.requests import time_limit
from rbee_worker.server.vector_schemas import VectorEnvelope, VectorRbee, VectorUsage
from rbee_worker.server.vectors import Name, usage, vectors, warnings
from rbee_worker.server.worker import Worker
from rbee_worker.session.vectors import prompted
from rbee_worker.types import ModelInfo, Pool, Request, ScoreActivation

# Names under which checkpoints declare the prompt of a question, and of what answers it.
_QUESTION, _ANSWER = ("query",), ("document", "passage", "corpus")


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts, and the body's fields that they are in. searching: the first one is a
    question, the second one may answer it."""

    texts: Sequence[tuple[str, str]]
    first: Name
    second: Name
    searching: bool = False


@dataclass(frozen=True)
class Scored:
    """One score for each pair."""

    scores: list[float]
    usage: VectorUsage
    rbee: VectorRbee


async def scored(
    http: HttpRequest,
    worker: Worker,
    pairs: Pairs,
    given: VectorEnvelope,
    answer_id: str,
    faults: list[FieldError],
) -> Scored:
    """The scores of all pairs. Raises InvalidRequest with `faults` and those of the texts,
    WrongModel for a model that gives no score."""
    info = worker.serving().info
    assert info is not None
    alone = info.purpose.task == "classify"
    if alone and len(info.purpose.labels) != 1:
        raise WrongModel(
            f"the model {info.model} has {len(info.purpose.labels)} classes, and a score is that "
            "of one.",
            fix="use /v1/classify, or a model with one class.",
        )
    rules = worker.serving().rules
    for place, texts in enumerate(pairs.texts):
        for text, name in zip(texts, (pairs.first, pairs.second), strict=True):
            faults += prompt_faults(Request(id="", prompt=text), rules, name=name(place))
    refuse(faults)
    limit = time_limit(worker, given.timeout_s)
    one = Request(id=answer_id, truncate=given.truncate, timeout_s=limit)
    how = _together if alone else _cosines
    return await how(http, worker, pairs, one, info)


async def _together(
    http: HttpRequest, worker: Worker, pairs: Pairs, like: Request, info: ModelInfo
) -> Scored:
    """The scores of a cross-encoder."""
    purpose = info.purpose
    pool = Pool(how=purpose.pooling.how, head=True)
    requests = [
        replace(like, id=f"{like.id}-{place}", prompt=first, pair=second, pool=pool)
        for place, (first, second) in enumerate(pairs.texts)
    ]
    found = await vectors(http, worker, requests, pairs.second)
    scores = [probabilities(one.values, purpose.activation)[0] for one in found]
    told = VectorRbee(
        method=f"cross-encoder, {purpose.activation}", warnings=warnings(found, pairs.second)
    )
    return Scored(scores, usage(found), told)


async def _cosines(
    http: HttpRequest, worker: Worker, pairs: Pairs, like: Request, info: ModelInfo
) -> Scored:
    """The cosines of vectors; a text that is in several pairs is computed once."""
    pooling = info.purpose.pooling
    pool = Pool(how=pooling.how, normalize=pooling.normalize)
    prompts = worker.serving().sentence.prompts
    before = [_named(prompts, names) if pairs.searching else None for names in (_QUESTION, _ANSWER)]
    puts = [prompted(worker.serving().sentence, name, []) for name in before]
    fields: dict[str, str] = {}  # text with what is put before it -> a field that has it
    for place, texts in enumerate(pairs.texts):
        for text, (put, _), name in zip(texts, puts, (pairs.first, pairs.second), strict=True):
            fields.setdefault(put + text, name(place))
    names = list(fields.values())
    requests = [
        replace(like, id=f"{like.id}-{place}", prompt=text, pool=pool)
        for place, text in enumerate(fields)
    ]
    found = await vectors(http, worker, requests, names.__getitem__)
    by_text = dict(zip(fields, (one.values for one in found), strict=True))
    scores = [
        cosine(by_text[puts[0][0] + first], by_text[puts[1][0] + second])
        for first, second in pairs.texts
    ]
    told = VectorRbee(
        pooling=pooling.how,
        origin=pooling.origin,
        prompt=" / ".join(dict.fromkeys(name for _, name in puts if name)),
        method="cosine",
        warnings=warnings(found, names.__getitem__),
    )
    return Scored(scores, usage(found), told)


def _named(prompts: Mapping[str, str], names: Sequence[str]) -> str | None:
    """The first of these names that is a prompt's; None: none is."""
    return next((name for name in names if name in prompts), None)


def cosine(a: array[float], b: array[float]) -> float:
    """Of the angle between two vectors, in float64; 0 if one of them is zero."""
    lengths = math.sqrt(math.fsum(map(mul, a, a)) * math.fsum(map(mul, b, b)))
    return math.fsum(map(mul, a, b)) / lengths if lengths else 0.0


def probabilities(scores: array[float], activation: ScoreActivation) -> list[float]:
    """A classifier's scores as its activation says, in float64."""
    values = list(scores)
    if activation == "sigmoid":
        return [_sigmoid(x) for x in values]
    if activation == "none":
        return values
    top = max(values)
    parts = [math.exp(x - top) for x in values]
    total = math.fsum(parts)
    return [part / total for part in parts]


def _sigmoid(x: float) -> float:
    e = math.exp(-abs(x))
    return 1 / (1 + e) if x >= 0 else e / (1 + e)
