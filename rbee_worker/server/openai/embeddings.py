"""POST /v1/embeddings: texts or ids to vectors, as numbers or in base64."""

from __future__ import annotations

import base64

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.server.body import envelope, read_object, unknown_faults
from rbee_worker.server.encoding import answered
from rbee_worker.server.given_texts import place_of, prompts_of
from rbee_worker.server.health import worker_of
from rbee_worker.server.served_models import served_model
from rbee_worker.server.vector_schemas import (
    MOST_TEXTS,
    Embedding,
    EmbeddingEnvelope,
    EmbeddingList,
    VectorRbee,
)
from rbee_worker.server.vectors import Found, embedded, size, usage, warnings
from rbee_worker.session.vectors import prompted


async def embeddings(http: HttpRequest) -> Response:
    """The endpoint of the route."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    engine = worker.serving()
    info = engine.info
    assert info is not None
    given, rest, faults = envelope(body, EmbeddingEnvelope)
    faults += unknown_faults(rest, EmbeddingEnvelope)
    model = served_model(worker, given.model).name
    texts = prompts_of("input", given.input, MOST_TEXTS, faults)
    name = place_of("input", given.input)
    found = await embedded(
        http,
        worker,
        texts,
        name,
        faults,
        prompt=given.prompt_name,
        dimensions=given.dimensions or 0,
        truncate=given.truncate,
        timeout_s=given.timeout_s,
    )
    pooling, prompt = info.purpose.pooling, ""
    if isinstance(texts[0], str):
        _, prompt = prompted(engine.sentence, given.prompt_name, faults)
    told = VectorRbee(
        pooling=pooling.how,
        normalized=pooling.normalize,
        origin=pooling.origin,
        dense=pooling.dense,
        prompt=prompt,
        warnings=warnings(found, name),
    )

    def answer() -> EmbeddingList:
        wire = _base64 if given.encoding_format == "base64" else _numbers
        rows = [Embedding(index=place, embedding=wire(one)) for place, one in enumerate(found)]
        return EmbeddingList(data=rows, model=model, usage=usage(found), rbee=told)

    return await answered(answer, size(found))


def _numbers(found: Found) -> list[float]:
    return found.values.tolist()


def _base64(found: Found) -> str:
    return base64.b64encode(found.data).decode()
