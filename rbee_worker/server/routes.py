"""The route table: every operation with its request and its answer.

The application, the OpenAPI document, `/docs` and the tests that walk all routes read this table. A
route that is not in it does not exist.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from rbee_worker.params import Surface
from rbee_worker.server import (
    adapters,
    describe,
    health,
    job_routes,
    schemas,
    scoring,
    text_routes,
    vector_schemas,
)
from rbee_worker.server.anthropic import messages as anthropic
from rbee_worker.server.anthropic import schemas as anthropic_schemas
from rbee_worker.server.headers import IDEMPOTENCY, RESUME
from rbee_worker.server.openai import chat, completions, embeddings, models
from rbee_worker.server.openai import schemas as openai_schemas

Endpoint = Callable[[HttpRequest], Awaitable[ASGIApp]]


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    body: envelope of the request; params: the surface whose sampling parameters may be in the body
    too; answer: body of a success; events: whether the answer is (or can be) a stream; errors:
    statuses besides those of every route; headers: those that this route reads and others do not,
    in lower case.
    """

    method: str
    path: str
    endpoint: Endpoint
    tag: str
    summary: str
    body: type | None = None
    params: Surface | None = None
    answer: Any = None
    media: str = "application/json"
    events: bool = False
    errors: tuple[int, ...] = ()
    deprecated: bool = False
    headers: tuple[str, ...] = ()

    @property
    def works(self) -> bool:
        """Whether the engine computes the answer."""
        return {*WORK} <= {*self.errors}


WORK = (400, 404, 408, 413, 429, 500, 503, 507)  # the statuses of routes that use the engine
TEXT = (400, 408, 413, 503)

JOB = "jobs"
OPENAI = "openai"
ANTHROPIC = "anthropic"
STATE = "state"
LANGUAGE = "text"
SCORES = "scores"
ADAPTERS = "adapters"

OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/health", health.health, STATE, "The process lives", answer=health.Health),
    Operation(
        "GET",
        "/v1/ready",
        health.ready,
        STATE,
        "Can it serve; if not, why",
        answer=health.Ready,
        errors=(503,),
    ),
    Operation(
        "GET",
        "/v1/loading/progress",
        health.loading_progress,
        STATE,
        "Loading, as events; a late subscriber gets the last state first",
        events=True,
    ),
    Operation(
        "GET",
        "/info",
        describe.info,
        STATE,
        "The worker, its model, its limits and every parameter it takes",
        answer=describe.Info,
    ),
    Operation(
        "GET",
        "/v1/stats",
        health.stats,
        STATE,
        "What the worker is doing now, in figures",
        answer=health.Stats,
    ),
    Operation(
        "GET",
        "/metrics",
        describe.metrics,
        STATE,
        "Prometheus metrics",
        media="text/plain",
    ),
    Operation(
        "POST",
        "/v1/jobs",
        job_routes.create,
        JOB,
        "Start a job; once for each Idempotency-Key",
        body=schemas.JobEnvelope,
        params="job",
        answer=schemas.JobCreated,
        errors=(*WORK, 409),
        headers=(IDEMPOTENCY,),
    ),
    Operation(
        "GET", "/v1/jobs", job_routes.listing, JOB, "Jobs, newest first", answer=schemas.JobList
    ),
    Operation(
        "GET",
        "/v1/jobs/{job_id}",
        job_routes.look,
        JOB,
        "A job's state and result",
        answer=schemas.JobState,
        errors=(404,),
    ),
    Operation(
        "DELETE",
        "/v1/jobs/{job_id}",
        job_routes.cancel,
        JOB,
        "Cancel a job; again changes nothing",
        answer=schemas.JobState,
        errors=(404,),
    ),
    Operation(
        "GET",
        "/v1/jobs/{job_id}/stream",
        job_routes.stream,
        JOB,
        "A job's events from the start, or after Last-Event-ID",
        events=True,
        errors=(400, 404),
        headers=(RESUME,),
    ),
    Operation(
        "POST",
        "/v1/infer",
        job_routes.infer,
        JOB,
        "One whole answer; leaving cancels it",
        body=schemas.InferEnvelope,
        params="job",
        answer=schemas.InferResult,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/v1/inference",
        job_routes.create_inference,
        JOB,
        "Old name of POST /v1/jobs",
        body=schemas.JobEnvelope,
        params="job",
        answer=schemas.JobCreated,
        errors=(*WORK, 409),
        deprecated=True,
        headers=(IDEMPOTENCY,),
    ),
    Operation(
        "GET",
        "/v1/inference/{job_id}/stream",
        job_routes.stream,
        JOB,
        "Old name of GET /v1/jobs/{job_id}/stream",
        events=True,
        errors=(400, 404),
        deprecated=True,
        headers=(RESUME,),
    ),
    Operation(
        "POST",
        "/v1/completions",
        completions.completions,
        OPENAI,
        "Continue a prompt",
        body=openai_schemas.CompletionEnvelope,
        params="completions",
        answer=openai_schemas.Completion,
        events=True,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/v1/chat/completions",
        chat.chat_completions,
        OPENAI,
        "Answer a conversation",
        body=openai_schemas.ChatEnvelope,
        params="chat",
        answer=openai_schemas.ChatCompletion,
        events=True,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/v1/messages",
        anthropic.create_message,
        ANTHROPIC,
        "Answer a conversation, in Anthropic's form",
        body=anthropic_schemas.MessagesEnvelope,
        answer=anthropic_schemas.MessageAnswer,
        events=True,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/v1/messages/count_tokens",
        anthropic.count_tokens,
        ANTHROPIC,
        "The tokens of a conversation, in Anthropic's form",
        body=anthropic_schemas.PromptEnvelope,
        answer=anthropic_schemas.TokenCount,
        errors=(404, *TEXT),
    ),
    Operation(
        "GET",
        "/v1/models",
        models.models,
        OPENAI,
        "The served model",
        answer=openai_schemas.ModelList,
    ),
    Operation(
        "GET",
        "/v1/models/{model:path}",
        models.model,
        OPENAI,
        "The served model, by its name",
        answer=openai_schemas.ModelCard,
        errors=(404,),
    ),
    Operation(
        "GET",
        "/v1/adapters",
        adapters.listing,
        ADAPTERS,
        "The adapters that requests can name as their model",
        answer=adapters.AdapterList,
    ),
    Operation(
        "POST",
        "/v1/adapters",
        adapters.load,
        ADAPTERS,
        "Load an adapter",
        body=adapters.AdapterEnvelope,
        answer=adapters.AdapterCard,
        errors=(400, 403, 404, 408, 413, 503),
    ),
    Operation(
        "DELETE",
        "/v1/adapters/{name:path}",
        adapters.unload,
        ADAPTERS,
        "Unload an adapter that no request uses",
        answer=adapters.AdapterCard,
        errors=(400, 403, 404, 503),
    ),
    Operation(
        "POST",
        "/v1/embeddings",
        embeddings.embeddings,
        OPENAI,
        "Vectors of texts",
        body=vector_schemas.EmbeddingEnvelope,
        answer=vector_schemas.EmbeddingList,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/v1/score",
        scoring.score,
        SCORES,
        "How well pairs of texts go together",
        body=vector_schemas.ScoreEnvelope,
        answer=vector_schemas.ScoreList,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/v1/rerank",
        scoring.rerank,
        SCORES,
        "Documents by how well they answer a query",
        body=vector_schemas.RerankEnvelope,
        answer=vector_schemas.RankedList,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/v1/classify",
        scoring.classify,
        SCORES,
        "Labels of texts",
        body=vector_schemas.ClassifyEnvelope,
        answer=vector_schemas.ClassList,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/tokenize",
        text_routes.tokenize,
        LANGUAGE,
        "Text to ids",
        body=schemas.TokenizeEnvelope,
        answer=schemas.Tokenized,
        errors=TEXT,
    ),
    Operation(
        "POST",
        "/detokenize",
        text_routes.detokenize,
        LANGUAGE,
        "Ids to text",
        body=schemas.DetokenizeEnvelope,
        answer=schemas.Detokenized,
        errors=TEXT,
    ),
    Operation(
        "POST",
        "/apply-template",
        text_routes.apply_template,
        LANGUAGE,
        "Messages to the prompt that the model's chat template makes of them",
        body=schemas.TemplateEnvelope,
        answer=schemas.Templated,
        errors=TEXT,
    ),
    Operation(
        "GET",
        "/openapi.json",
        describe.openapi,
        STATE,
        "This description, for programs",
        answer=dict,
    ),
    Operation(
        "GET", "/docs", describe.docs, STATE, "This description, for people", media="text/html"
    ),
)
