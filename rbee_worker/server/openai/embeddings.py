"""POST /v1/embeddings: texts or ids to vectors, as numbers or in base64."""

from __future__ import annotations

import base64

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.checkpoint.sentence import Sentence
from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.params import prompt_faults
from rbee_worker.server.body import envelope, read_object, refuse, unknown_faults
from rbee_worker.server.encoding import answered
from rbee_worker.server.given_texts import Prompt, place_of, prompts_of
from rbee_worker.server.health import worker_of
from rbee_worker.server.requests import check_model, new_id, time_limit
from rbee_worker.server.vector_schemas import (
    MOST_TEXTS,
    Embedding,
    EmbeddingEnvelope,
    EmbeddingList,
    VectorRbee,
)
from rbee_worker.server.vectors import Found, size, usage, vectors, warnings
from rbee_worker.session.vectors import check_purpose, prompted
from rbee_worker.types import ModelInfo, Pool, Request


async def embeddings(http: HttpRequest) -> Response:
    """The endpoint of the route."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    engine = worker.serving()
    info = engine.info
    assert info is not None
    given, rest, faults = envelope(body, EmbeddingEnvelope)
    faults += unknown_faults(rest, EmbeddingEnvelope)
    model = check_model(worker, given.model)
    pooling = info.purpose.pooling
    pool = Pool(how=pooling.how, dimensions=given.dimensions or 0, normalize=pooling.normalize)
    check_purpose(Request(id="", pool=pool), info)
    faults += _size_faults(given.dimensions, info)
    texts = prompts_of("input", given.input, MOST_TEXTS, faults)
    before, prompt = _prompt(engine.sentence, given.prompt_name, texts, faults)
    answer_id = new_id("embd")
    requests = [
        Request(
            id=f"{answer_id}-{place}",
            prompt=before + text if isinstance(text, str) else None,
            token_ids=None if isinstance(text, str) else text,
            pool=pool,
            truncate=given.truncate,
            timeout_s=time_limit(worker, given.timeout_s),
        )
        for place, text in enumerate(texts)
    ]
    name = place_of("input", given.input)
    for place, request in enumerate(requests):
        faults += prompt_faults(request, engine.rules, name=name(place))
    refuse(faults)
    found = await vectors(http, worker, requests, name)
    told = VectorRbee(
        pooling=pooling.how,
        normalized=pooling.normalize,
        origin=pooling.origin,
        prompt=prompt,
        warnings=warnings(found, name),
    )

    def make() -> EmbeddingList:
        wire = _base64 if given.encoding_format == "base64" else _numbers
        rows = [Embedding(index=place, embedding=wire(one)) for place, one in enumerate(found)]
        return EmbeddingList(data=rows, model=model, usage=usage(found), rbee=told)

    return await answered(make, size(found))


def _prompt(
    sentence: Sentence, name: str | None, texts: list[Prompt], faults: list[FieldError]
) -> tuple[str, str]:
    """What is put before each text, and its name. Ids get none; that one was asked for is a
    fault then."""
    ids = any(not isinstance(text, str) for text in texts)
    if ids and name:
        message = "cannot be put before ids"
        faults.append(FieldError("prompt_name", "with texts", message))
    if ids:
        return "", ""
    try:
        return prompted(sentence, name)
    except InvalidRequest as error:
        faults += error.errors
        return "", ""


def _size_faults(asked: int | None, info: ModelInfo) -> list[FieldError]:
    if asked is None or asked <= info.dimensions:
        return []
    message = f"must be at most the model's {info.dimensions}"
    return [FieldError("dimensions", f"1 to {info.dimensions}", message, asked)]


def _numbers(found: Found) -> list[float]:
    return found.values.tolist()


def _base64(found: Found) -> str:
    return base64.b64encode(found.data).decode()
