"""How well two texts go together, as a number.

A classifier with one class reads both texts together (a cross-encoder), and the score is that
class's. A reranker that generates reads them together too, and the score is how likely it answers
yes and not no. Any other model gives each text a vector, and the score says how alike the two are:
their cosine, unless the model's files say that its vectors are compared in another way.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul

from msgspec.structs import replace
from starlette.requests import Request as HttpRequest

from rbee_worker.errors import FieldError, WrongModel
from rbee_worker.model_info import ModelInfo, PairScore, ScoreActivation, Similarity
from rbee_worker.params import prompt_faults
from rbee_worker.server.body import refuse
from rbee_worker.server.requests import time_limit
from rbee_worker.server.vector_schemas import PairEnvelope, VectorRbee, VectorUsage
from rbee_worker.server.vectors import Name, usage, vectors, warnings
from rbee_worker.server.worker import Worker
from rbee_worker.session.vectors import pool_of, prompted, scored_prompt
from rbee_worker.types import Pool, Request

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
    given: PairEnvelope,
    answer_id: str,
    faults: list[FieldError],
) -> Scored:
    """The scores of all pairs. Raises InvalidRequest with `faults` and those of the texts,
    WrongModel for a model that gives no score."""
    info = worker.serving().info
    assert info is not None
    how = info.purpose.pairs
    if how is None and info.purpose.task == "classify":
        raise WrongModel(
            f"the model {info.model} has {len(info.purpose.labels)} classes, and a score is that "
            "of one.",
            fix="use /v1/classify, or a model with one class.",
        )
    rules = worker.serving().rules
    for place, texts in enumerate(pairs.texts):
        for text, name in zip(texts, (pairs.first, pairs.second), strict=True):
            if text is None:  # told already
                continue
            request = Request(id="", prompt=text, truncate=given.truncate)
            faults += prompt_faults(request, rules, name=name(place))
    if given.instruction:
        request = Request(id="", prompt=given.instruction)
        faults += prompt_faults(request, rules, name="instruction")
    if given.instruction is not None and (how is None or not how.instructed):
        message = "this model's scores do not depend on one"
        faults.append(FieldError("instruction", "absent", message))
    refuse(faults)
    limit = time_limit(worker, given.timeout_s)
    one = Request(
        id=answer_id,
        truncate=given.truncate,
        timeout_s=limit,
        instruction=given.instruction,
    )
    if how is None or how.by == "vectors":
        return await _apart(http, worker, pairs, one, info)
    return await _together(http, worker, pairs, one, info, how)


async def _together(
    http: HttpRequest,
    worker: Worker,
    pairs: Pairs,
    like: Request,
    info: ModelInfo,
    how: PairScore,
) -> Scored:
    """The scores of a model that reads both texts."""
    asks = how.by == "yes-no"
    rows = "last" if asks else info.purpose.pooling.how
    pool = Pool(how=rows, head=True, ids=how.ids)
    sentence = worker.serving().sentence
    before, prompt = scored_prompt(sentence)
    if how.template:  # which has a place for it
        used = how.template == "chat" and how.instructed and like.instruction is None
        before, prompt = "", prompt if used else ""
    requests = [
        replace(like, id=f"{like.id}-{place}", prompt=before + first, pair=second, pool=pool)
        for place, (first, second) in enumerate(pairs.texts)
    ]
    found = await vectors(http, worker, requests, pairs.second)
    scores = [_score(one.values, how) for one in found]
    told = VectorRbee(
        origin=how.origin,
        prompt=prompt,
        method=f"{'yes or no' if asks else 'cross-encoder'}, {how.activation}",
        warnings=warnings(found, pairs.second),
    )
    return Scored(scores, usage(found), told)


def _score(values: array[float], how: PairScore) -> float:
    """The score of what the model's head gave."""
    if how.by == "classes":
        return probabilities(values, how.activation)[how.label]
    yes, *no = values
    return probabilities(array("d", [yes - sum(no)]), how.activation)[0]


async def _apart(
    http: HttpRequest, worker: Worker, pairs: Pairs, like: Request, info: ModelInfo
) -> Scored:
    """How alike vectors are; a text that is in several pairs is computed once."""
    pooling = info.purpose.pooling
    sentence = worker.serving().sentence
    roles = (_QUESTION, _ANSWER)
    before = [_named(sentence.prompts, names) if pairs.searching else None for names in roles]
    puts = [prompted(sentence, name, []) for name in before]
    fields: dict[tuple[str, str], str] = {}  # what is put before a text, the text -> a field
    for place, texts in enumerate(pairs.texts):
        for text, (put, _), name in zip(texts, puts, (pairs.first, pairs.second), strict=True):
            fields.setdefault((put, text), name(place))
    names = list(fields.values())
    requests = [
        replace(
            like,
            id=f"{like.id}-{place}",
            prompt=put + text,
            pool=pool_of(pooling, sentence, put),
        )
        for place, (put, text) in enumerate(fields)
    ]
    alike = _ALIKE[sentence.similarity]
    found = await vectors(http, worker, requests, names.__getitem__)
    by_text = dict(zip(fields, (one.values for one in found), strict=True))
    scores = [
        alike(by_text[puts[0][0], first], by_text[puts[1][0], second])
        for first, second in pairs.texts
    ]
    told = VectorRbee(
        pooling=pooling.how,
        origin=pooling.origin,
        prompt=" / ".join(dict.fromkeys(name for _, name in puts if name)),
        method=sentence.similarity,
        warnings=(*_unfounded(info), *warnings(found, names.__getitem__)),
    )
    return Scored(scores, usage(found), told)


def _unfounded(info: ModelInfo) -> tuple[str, ...]:
    """What to know of scores by a model that no file says makes vectors. Rerankers may be such
    models too: they answer yes or no to a question, which their cosines say nothing of."""
    purpose = info.purpose
    if purpose.task != "generate" or purpose.pooling.origin != "default":
        return ()
    if info.purpose.pairs is not None and info.purpose.pairs.origin == "--rerank":
        return ()
    told = "no file of this model says that it makes vectors: their cosines may mean nothing"
    return (f"{told}; a reranker that answers yes or no is asked with --rerank yes-no",)


def _named(prompts: Mapping[str, str], names: Sequence[str]) -> str | None:
    """The first of these names that is a prompt's; None: none is."""
    return next((name for name in names if name in prompts), None)


def cosine(a: array[float], b: array[float]) -> float:
    """Of the angle between two vectors, in float64; 0 if one of them is zero."""
    lengths = math.sqrt(math.fsum(map(mul, a, a)) * math.fsum(map(mul, b, b)))
    return math.fsum(map(mul, a, b)) / lengths if lengths else 0.0


_ALIKE: Mapping[Similarity, Callable[[array[float], array[float]], float]] = {
    "cosine": cosine,
    "dot": lambda a, b: math.fsum(map(mul, a, b)),
    "euclidean": lambda a, b: -math.dist(a, b),
    "manhattan": lambda a, b: -math.fsum(abs(x - y) for x, y in zip(a, b, strict=True)),
}


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
