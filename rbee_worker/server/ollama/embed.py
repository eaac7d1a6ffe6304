"""POST /api/embed and its predecessor /api/embeddings."""

from __future__ import annotations

import time

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.server.body import envelope, read_object, unknown_faults
from rbee_worker.server.encoding import answered
from rbee_worker.server.given_texts import place_of, prompts_of
from rbee_worker.server.health import worker_of
from rbee_worker.server.ollama.names import named
from rbee_worker.server.ollama.options import option_faults
from rbee_worker.server.ollama.schemas import (
    Embedded,
    EmbedEnvelope,
    OldEmbedded,
    OldEmbedEnvelope,
)
from rbee_worker.server.vector_schemas import MOST_TEXTS
from rbee_worker.server.vectors import embedded, size


async def embed(http: HttpRequest) -> Response:
    """The endpoint of POST /api/embed."""
    began = time.monotonic()
    worker = worker_of(http)
    body = await read_object(http, worker)
    context = worker.serving().rules.context
    given, rest, faults = envelope(body, EmbedEnvelope)
    faults += unknown_faults(rest, EmbedEnvelope) + option_faults(given.options or {}, context)
    model = named(worker, given.model).name
    texts = prompts_of("input", given.input, MOST_TEXTS, faults)
    found = await embedded(
        http,
        worker,
        texts,
        place_of("input", given.input),
        faults,
        dimensions=given.dimensions or 0,
        truncate=given.truncate,
    )

    def answer() -> Embedded:
        return Embedded(
            model=model,
            embeddings=[one.values.tolist() for one in found],
            total_duration=int((time.monotonic() - began) * 1e9),
            load_duration=0,
            prompt_eval_count=sum(one.tokens for one in found),
        )

    return await answered(answer, size(found))


async def old_embed(http: HttpRequest) -> Response:
    """The endpoint of POST /api/embeddings: one text, which is cut if it is too long."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    context = worker.serving().rules.context
    given, rest, faults = envelope(body, OldEmbedEnvelope)
    faults += unknown_faults(rest, OldEmbedEnvelope) + option_faults(given.options or {}, context)
    named(worker, given.model)
    texts = [] if given.prompt is None else [given.prompt]
    (one,) = await embedded(http, worker, texts, lambda _: "prompt", faults, truncate=True)
    return await answered(lambda: OldEmbedded(embedding=one.values.tolist()), size([one]))
