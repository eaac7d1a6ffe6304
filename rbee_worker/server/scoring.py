"""POST /v1/classify, /v1/score and /v1/rerank: labels of texts, and how well two go together."""

from __future__ import annotations

import time

from msgspec import UNSET
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.errors import FieldError
from rbee_worker.params import prompt_faults
from rbee_worker.server.body import envelope, read_object, refuse, unknown_faults
from rbee_worker.server.encoding import answered
from rbee_worker.server.given_texts import place_of, prompts_of
from rbee_worker.server.health import worker_of
from rbee_worker.server.pairs import Pairs, probabilities, scored
from rbee_worker.server.requests import new_id, time_limit
from rbee_worker.server.served_models import served_model
from rbee_worker.server.vector_schemas import (
    MOST_TEXTS,
    Classes,
    ClassifyEnvelope,
    ClassList,
    Document,
    Ranked,
    RankedList,
    RerankEnvelope,
    ScoreEnvelope,
    ScoreList,
    ScoreRow,
    VectorRbee,
)
from rbee_worker.server.vectors import size, usage, vectors, warnings
from rbee_worker.session.vectors import check_purpose, put_before, scored_prompt
from rbee_worker.types import Pool, Request


async def classify(http: HttpRequest) -> Response:
    """The endpoint of /v1/classify."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    engine = worker.serving()
    info = engine.info
    assert info is not None
    given, rest, faults = envelope(body, ClassifyEnvelope)
    faults += unknown_faults(rest, ClassifyEnvelope)
    model = served_model(worker, given.model).name
    purpose = info.purpose
    pool = Pool(how=purpose.pooling.how, head=True)
    check_purpose(Request(id="", pool=pool), info)
    texts = prompts_of("input", given.input, MOST_TEXTS, faults)
    answer_id, name = new_id("classify"), place_of("input", given.input)
    before, prompt = scored_prompt(engine.sentence)
    requests = [
        Request(
            id=f"{answer_id}-{place}",
            prompt=put_before(before, text) if isinstance(text, str) else None,
            token_ids=None if isinstance(text, str) else text,
            pool=pool,
            truncate=given.truncate,
            timeout_s=time_limit(worker, given.timeout_s),
        )
        for place, text in enumerate(texts)
    ]
    for place, request in enumerate(requests):
        faults += prompt_faults(request, engine.rules, name=name(place))
    refuse(faults)
    found = await vectors(http, worker, requests, name)

    def make() -> ClassList:
        rows = []
        for place, one in enumerate(found):
            probs = probabilities(one.values, purpose.activation)
            best = max(range(len(probs)), key=lambda n: probs[n])
            label = purpose.labels[best]
            rows.append(Classes(index=place, label=label, probs=probs, num_classes=len(probs)))
        return ClassList(
            id=answer_id,
            created=int(time.time()),
            model=model,
            data=rows,
            labels=purpose.labels,
            usage=usage(found),
            rbee=VectorRbee(
                prompt=prompt if isinstance(texts[0], str) else "",
                method=purpose.activation,
                warnings=warnings(found, name),
            ),
        )

    return await answered(make, size(found))


async def score(http: HttpRequest) -> Response:
    """The endpoint of /v1/score."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    worker.serving()
    given, rest, faults = envelope(body, ScoreEnvelope)
    faults += unknown_faults(rest, ScoreEnvelope)
    model = served_model(worker, given.model).name
    first, second = _texts("text_1", given.text_1, faults), _texts("text_2", given.text_2, faults)
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second) and not faults:
        message = f"has {len(first)} texts, but text_2 has {len(second)}"
        faults.append(FieldError("text_1", "one, or as many as text_2", message))
    answer_id = new_id("score")
    pairs = Pairs(
        [*zip(first, second, strict=False)],
        place_of("text_1", given.text_1),
        place_of("text_2", given.text_2),
    )
    found = await scored(http, worker, pairs, given, answer_id, faults)
    rows = [ScoreRow(index=place, score=one) for place, one in enumerate(found.scores)]
    answer = ScoreList(
        id=answer_id,
        created=int(time.time()),
        model=model,
        data=rows,
        usage=found.usage,
        rbee=found.rbee,
    )
    return await answered(lambda: answer, len(rows))


async def rerank(http: HttpRequest) -> Response:
    """The endpoint of /v1/rerank."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    worker.serving()
    given, rest, faults = envelope(body, RerankEnvelope)
    faults += unknown_faults(rest, RerankEnvelope)
    model = served_model(worker, given.model).name
    listed = [d.text if isinstance(d, Document) else d for d in given.documents or ()]
    documents = _texts("documents", listed, faults)
    answer_id = new_id("rerank")
    pairs = Pairs(
        [(given.query, document) for document in documents],
        lambda place: "query",
        lambda place: f"documents[{place}]",
        searching=True,
    )
    found = await scored(http, worker, pairs, given, answer_id, faults)
    best = sorted(range(len(documents)), key=lambda n: (-found.scores[n], n))[: given.top_n]
    results = [
        Ranked(
            index=n,
            relevance_score=found.scores[n],
            document=Document(text=documents[n]) if given.return_documents else UNSET,
        )
        for n in best
    ]
    answer = RankedList(
        id=answer_id, model=model, results=results, usage=found.usage, rbee=found.rbee
    )
    return await answered(lambda: answer, len(results))


def _texts(name: str, given: str | list[str] | None, faults: list[FieldError]) -> list[str]:
    """One text or several of the body's field `name`."""
    texts = prompts_of(name, given, MOST_TEXTS, faults)
    return [text for text in texts if isinstance(text, str)]
