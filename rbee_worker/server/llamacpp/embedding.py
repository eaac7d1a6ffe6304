"""POST /embedding: vectors in llama.cpp's first form."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.errors import FieldError
from rbee_worker.server.body import envelope, read_object, unknown_faults
from rbee_worker.server.encoding import answered
from rbee_worker.server.health import worker_of
from rbee_worker.server.llamacpp.prompts import prompts_of, several, text_alone
from rbee_worker.server.llamacpp.schemas import EmbeddingEnvelope, Vectors
from rbee_worker.server.served_models import served_model
from rbee_worker.server.vector_schemas import MOST_TEXTS
from rbee_worker.server.vectors import embedded, size

_L2 = 2


async def embedding(http: HttpRequest) -> Response:
    """The endpoint of POST /embedding."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    engine = worker.serving()
    assert engine.info is not None
    given, rest, faults = envelope(body, EmbeddingEnvelope)
    faults += unknown_faults(rest, EmbeddingEnvelope)
    served_model(worker, given.model)
    name, texts = ("input", given.input) if given.content is None else ("content", given.content)
    if given.content is not None and given.input is not None:
        faults.append(FieldError("input", "one of two", "is another name of content: give one"))
    normal = _L2 if engine.info.purpose.pooling.normalize else -1
    if given.embd_normalize not in (None, normal):
        message = f"is not implemented: only {normal}, as the model's files say"
        faults.append(FieldError("embd_normalize", str(normal), message))
    found_faults: list[FieldError] = []
    prompts = prompts_of(texts, MOST_TEXTS, engine.tokenizer, found_faults)
    faults += [
        FieldError(name + f.field.removeprefix("prompt"), f.constraint, f.message)
        for f in found_faults
        if not any(told.field.startswith(name) for told in faults)
    ]
    many = several(texts)
    words = [text_alone(one, faults, name) for one in prompts]
    found = await embedded(
        http,
        worker,
        words,
        lambda n: f"{name}[{n}]" if many else name,
        faults,
        truncate=given.truncate,
    )

    def answer() -> list[Vectors]:
        return [Vectors(n, [one.values.tolist()]) for n, one in enumerate(found)]

    return await answered(answer, size(found))
