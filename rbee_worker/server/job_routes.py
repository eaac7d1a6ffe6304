"""Jobs over HTTP: create, follow, inspect, list, cancel; and the blocking /v1/infer."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp

from rbee_worker import wire
from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.observe.trace import phases
from rbee_worker.server.body import Body, envelope, read_object
from rbee_worker.server.encoding import LONG, answered, encoded
from rbee_worker.server.headers import IDEMPOTENCY
from rbee_worker.server.health import worker_info, worker_of
from rbee_worker.server.idempotency import asked_by, once
from rbee_worker.server.jobs import Asked, Job, weight
from rbee_worker.server.limits import caller
from rbee_worker.server.problems import Refusal, json_response
from rbee_worker.server.requests import ask, ignored, new_id, settled
from rbee_worker.server.schemas import (
    InferEnvelope,
    InferResult,
    JobCreated,
    JobEnvelope,
    JobError,
    JobList,
    JobState,
    JobSummary,
)
from rbee_worker.server.served_models import served_model
from rbee_worker.server.sse import DONE, EventStream, frame
from rbee_worker.server.worker import Worker
from rbee_worker.types import End, Event, Narration

OPERATIONS = ("infer", "status")
_ENCODER = msgspec.json.Encoder()


def token_name(worker: Worker, job: Job) -> wire.TokenText:
    """A function that names the ids in a job's log-probabilities by their text in the vocabulary.
    Raises NotReady before that is read: jobs of an earlier process can be asked for then."""
    if not job.named:
        return str  # no id is shown
    assert worker.engine is not None
    return worker.engine.tokenizer.token_text


class JobRendering:
    """A job's events in the form of docs/worker-api.md, "Job events"; each with its `id:`."""

    def __init__(self, worker: Worker, job: Job) -> None:
        """Raises NotReady."""
        self._job = job
        self._name = token_name(worker, job)

    def event(self, choice: int, place: int, event: Event) -> bytes:
        trace: list[dict[str, Any]] | UnsetType = UNSET
        if self._job.trace and type(event) is End:
            trace = phases(self._job)
        told = wire.job_event(event, self._name, trace)
        heavy = self._job.log.heavy and weight(event) > LONG
        data = encoded(told) if heavy else _ENCODER.encode(told)
        return frame(data, place + 1)

    def done(self) -> bytes:
        return DONE


async def create(http: HttpRequest) -> Response:
    """POST /v1/jobs."""
    return await _create(http, "/v1/jobs")


async def create_inference(http: HttpRequest) -> Response:
    """POST /v1/inference: /v1/jobs under its old name."""
    response = await _create(http, "/v1/inference")
    response.headers["Deprecation"] = "true"
    response.headers["Link"] = '</v1/jobs>; rel="successor-version"'
    return response


async def _create(http: HttpRequest, base: str) -> Response:
    worker = worker_of(http)
    body = await read_object(http, worker)
    asked = asked_by(http.headers.get(IDEMPOTENCY), body)
    job, again = await once(worker, asked, partial(_begin, worker, body, asked))
    status = worker_info(worker) if body.values.get("operation") == "status" else UNSET
    created = JobCreated(job_id=job.id, sse_url=f"{base}/{job.id}/stream", status=status)
    replayed = {"Idempotent-Replayed": "true"} if again else {}
    return json_response(created, headers={**ignored([job]), **replayed})


async def _begin(worker: Worker, body: Body, asked: Asked | None) -> Job:
    """The job that `body` asks for."""
    if body.values.get("operation") == "status" and not body.faults:
        return _status_job(worker, sorted(body.values.keys() - {"operation"}), asked)
    worker.generating()
    given, params, faults = envelope(body, JobEnvelope)
    if given.operation not in OPERATIONS:
        message = f"is not supported; supported: {', '.join(OPERATIONS)}"
        faults.append(FieldError("operation", f"one of {', '.join(OPERATIONS)}", message))
    served_model(worker, given.model)
    request = ask(worker, body, given, params, faults, new_id("job"))
    (job,) = await worker.submit([request], keep=True, trace=given.trace, asked=asked)
    return job


def _status_job(worker: Worker, others: list[str], asked: Asked | None) -> Job:
    """A job that ends at once: its stream is one narration of the worker's state."""
    if others:
        raise InvalidRequest(
            [FieldError(n[:64], "absent", "means nothing with operation status") for n in others]
        )
    human = f"Worker {worker.id} is {worker.state} and serves {worker.settings.model}."
    word = Narration(actor="worker", action="status", target=worker.id, human=human)
    return worker.jobs.note(new_id("job"), word, asked, owner=caller())


async def stream(http: HttpRequest) -> ASGIApp:
    """GET /v1/jobs/{id}/stream: from the beginning, or from after `Last-Event-ID`."""
    worker = worker_of(http)
    job = await _job(worker, http)
    last = http.headers.get("last-event-id", "").strip() or "0"
    known = len(job.log.events)
    if not (last.isascii() and last.isdigit() and len(last) < 10 and int(last) <= known):
        message = "is not the id of an event of this job"
        raise InvalidRequest([FieldError("Last-Event-ID", f"0..{known}", message)])
    rendering = JobRendering(worker, job)
    return EventStream([job.log], rendering, start=int(last), sent=partial(worker.sent, job))


async def look(http: HttpRequest) -> Response:
    """GET /v1/jobs/{id}."""
    worker = worker_of(http)
    job = await _job(worker, http)
    return await answered(partial(state, worker, job), job.size)


async def cancel(http: HttpRequest) -> Response:
    """DELETE /v1/jobs/{id}: asks the job to end; answers with its current state."""
    worker = worker_of(http)
    job = await _job(worker, http)
    await worker.cancel(job)
    return await answered(partial(state, worker, job), job.size)


async def listing(http: HttpRequest) -> Response:
    """GET /v1/jobs."""
    worker = worker_of(http)
    await worker.known()
    rows = []
    for job in (job for job in worker.jobs if job.owner == caller()):
        started, end = job.started, job.end
        rows.append(
            JobSummary(
                job_id=job.id,
                state=job.state,
                created_at=iso(job.created),
                prompt_tokens=started.prompt_tokens if started is not None else 0,
                tokens_out=job.tokens_out,
                stop_reason=end.stop.rule if end is not None else None,
            )
        )
    return json_response(JobList(rows))


async def infer(http: HttpRequest) -> Response:
    """POST /v1/infer: the whole answer in one response; a client that leaves cancels it."""
    began = time.perf_counter()
    worker = worker_of(http)
    body = await read_object(http, worker)
    worker.generating()
    given, params, faults = envelope(body, InferEnvelope)
    served_model(worker, given.model)
    request = ask(worker, body, given, params, faults, new_id("infer"))
    jobs = await worker.submit([request], keep=False)
    await settled(http, worker, jobs)
    (job,) = jobs
    return await answered(partial(_result, worker, job, began), job.size, ignored(jobs))


def _result(worker: Worker, job: Job, began: float) -> InferResult:
    """The answer of POST /v1/infer for a job that has ended. began: on the performance counter."""
    started, end = job.started, job.end
    assert started is not None
    assert end is not None
    return InferResult(
        text=job.text(),
        reasoning=job.reasoning() or UNSET,
        tool_calls=job.calls() or UNSET,
        reasoning_tokens=end.usage.reasoning_tokens,
        token_ids=job.token_ids(),
        tokens_generated=end.usage.output_tokens,
        prompt_tokens=end.usage.prompt_tokens,
        cached_tokens=end.usage.cached_tokens,
        drafted_tokens=end.usage.drafted_tokens,
        accepted_tokens=end.usage.accepted_tokens,
        duration_ms=round((time.perf_counter() - began) * 1e3, 3),
        prefill_time_ms=round(end.usage.prefill_ms, 3),
        decode_time_ms=round(end.usage.decode_ms, 3),
        queue_time_ms=round(end.usage.queue_ms, 3),
        seed=started.seed,
        stop_reason=end.stop.rule,
        stop_sequence_matched=end.stop.sequence,
        stop=end.stop,
        sampling=wire.sampling_table(started.sampling),
        warnings=started.warnings,
        **_scores(worker, job),
    )


def _scores(worker: Worker, job: Job) -> dict[str, Any]:
    """`logprobs` and `prompt_logprobs` of a job that has ended, if they were requested.

    They are long, and clients often ask for the state of a running job, so that has none of them.
    """
    if job.live:
        return {}
    name = token_name(worker, job)
    found, prompt = job.logprobs(), job.prompt_logprobs()
    scores: dict[str, Any] = {}
    if found is not None:
        scores["logprobs"] = [wire.scored(e, name) for e in found]
    if prompt is not None:
        scores["prompt_logprobs"] = [e if e is None else wire.scored(e, name) for e in prompt]
    return scores


async def _job(worker: Worker, http: HttpRequest) -> Job:
    await worker.known()
    job = worker.jobs.get(http.path_params["job_id"])
    if job is None or job.owner != caller():
        raise Refusal(
            404,
            "job_not_found",
            "There is no such job.",
            fix=f"finished jobs are kept {worker.settings.keep_jobs_s} s; GET /v1/jobs lists them.",
        )
    return job


def state(worker: Worker, job: Job) -> JobState:
    """A job in the form of GET /v1/jobs/{id}."""
    started, end, error = job.started, job.end, job.error
    reason = end.stop.rule if end is not None else ("ERROR" if error is not None else None)
    return JobState(
        job_id=job.id,
        state=job.state,
        created_at=iso(job.created),
        finished_at=iso(job.finished) if job.finished is not None else None,
        model=started.model if started is not None else worker.settings.model,
        sse_url=f"/v1/jobs/{job.id}/stream",
        correlation_id=job.correlation_id,
        prompt_tokens=started.prompt_tokens if started is not None else 0,
        tokens_out=job.tokens_out,
        text=job.text(),
        reasoning=job.reasoning() or UNSET,
        tool_calls=job.calls() or UNSET,
        token_ids=job.token_ids(),
        stop_reason=reason,
        stop=end.stop if end is not None else None,
        error=JobError(error.code, error.message) if error is not None else None,
        warnings=started.warnings if started is not None else (),
        **_scores(worker, job),
    )


def iso(unix_s: float) -> str:
    """Seconds since 1970 as ISO 8601, UTC."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
