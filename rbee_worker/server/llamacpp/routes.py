"""The routes of llama.cpp's server, and its names of routes that have others here."""

from __future__ import annotations

from rbee_worker.server.llamacpp import completion, embedding, schemas, state
from rbee_worker.server.operation import LLAMACPP, WORK, Operation

_COMPLETION = Operation(
    "POST",
    "/completion",
    completion.completion,
    LLAMACPP,
    "Continue a prompt, in llama.cpp's form",
    body=schemas.CompletionEnvelope,
    answer=schemas.Answer | list[schemas.Answer],
    events=True,
    errors=WORK,
)
_EMBEDDING = Operation(
    "POST",
    "/embedding",
    embedding.embedding,
    LLAMACPP,
    "Vectors of texts, in llama.cpp's first form",
    body=schemas.EmbeddingEnvelope,
    answer=list[schemas.Vectors],
    errors=WORK,
)

OPERATIONS = (
    _COMPLETION,
    _COMPLETION.under("/completions"),
    Operation(
        "POST",
        "/infill",
        completion.infill,
        LLAMACPP,
        "Fill a gap in a text",
        body=schemas.InfillEnvelope,
        answer=schemas.Answer | list[schemas.Answer],
        events=True,
        errors=WORK,
    ),
    _EMBEDDING,
    _EMBEDDING.under("/embeddings"),
    Operation(
        "GET",
        "/props",
        state.props,
        LLAMACPP,
        "The worker, in llama.cpp's words",
        answer=schemas.Properties,
        errors=(503,),
    ),
    Operation(
        "GET",
        "/slots",
        state.slots,
        LLAMACPP,
        "Places for sequences, and which are taken",
        answer=list[schemas.Slot],
        errors=(503,),
    ),
    Operation(
        "POST",
        "/slots/{slot}",
        state.slot_action,
        LLAMACPP,
        "Refused: slots keep nothing",
        answer=dict,
    ),
)
# the worker's path -> llama.cpp's names of it
ALIASES = {
    "/health": ("/v1/health",),
    "/v1/models": ("/models",),
    "/v1/chat/completions": ("/chat/completions",),
    "/v1/chat/completions/input_tokens": ("/chat/completions/input_tokens",),
    "/v1/responses": ("/responses",),
    "/v1/responses/input_tokens": ("/responses/input_tokens",),
    "/v1/rerank": ("/rerank", "/reranking", "/v1/reranking"),
}


def aliases(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """llama.cpp's names of operations that have others."""
    return tuple(op.under(path) for op in operations for path in ALIASES.get(op.path, ()))
