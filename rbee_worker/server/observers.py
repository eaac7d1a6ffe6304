"""Records a worker's jobs: metrics, the trace file, OpenTelemetry spans, the audit log. Each may be
absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee_worker.server.jobs import Job
from rbee_worker.types import Token

if TYPE_CHECKING:
    from rbee_worker.observe.metrics import WorkerMetrics
    from rbee_worker.observe.subjects import WorkerFigures
    from rbee_worker.observe.telemetry import Telemetry
    from rbee_worker.observe.trace import Tracer
    from rbee_worker.server.audit import Audit


class Observers:
    """Passes what happens to jobs on to those observers that exist."""

    def __init__(
        self,
        worker: WorkerFigures,
        tracer: Tracer | None,
        telemetry: Telemetry | None,
        audit: Audit | None = None,
    ) -> None:
        self._worker = worker
        self._metrics: WorkerMetrics | None = None
        self.audit = audit
        self.tracer = tracer
        self.telemetry = telemetry

    def metrics(self) -> WorkerMetrics:
        """The metrics, made on first use, because their library is imported then."""
        if self._metrics is None:
            from rbee_worker.observe.metrics import WorkerMetrics

            self._metrics = WorkerMetrics(self._worker)
        return self._metrics

    def admitted(self, job: Job) -> None:
        """The engine has accepted a job."""
        if self._metrics is not None:
            self._metrics.admitted(job)

    def refused(self, code: str) -> None:
        """A request was refused with the error `code`."""
        if self._metrics is not None:
            self._metrics.refused(code)

    def token(self, job: Job, event: Token) -> None:
        """A job has new tokens."""
        if self._metrics is not None:
            self._metrics.token(job, event)

    def spoke(self, frames: int) -> None:
        """So many frames of speech were made."""
        if self._metrics is not None:
            self._metrics.spoke(frames)

    def sent(self, start_s: float, events: int) -> None:
        """A stream wrote `events` events; start_s: when that began (monotonic)."""
        if self._metrics is not None:
            self._metrics.sent(events)
        if self.tracer is not None:
            self.tracer.sent(start_s * 1e6, events)

    def finished(self, job: Job) -> None:
        """A job has ended."""
        if self._metrics is not None:
            self._metrics.finished(job)
        if self.tracer is not None:
            self.tracer.job(job)
        if self.telemetry is not None:
            self.telemetry.job(job)
        if self.audit is not None:
            _told(self.audit, job)


def _told(audit: Audit, job: Job) -> None:
    started, end, error = job.started, job.end, job.error
    audit.job(
        token=job.owner,
        job_id=job.id,
        correlation_id=job.correlation_id,
        prompt_tokens=started.prompt_tokens if started is not None else 0,
        output_tokens=job.tokens_out,
        stop=end.stop.rule if end is not None else error.code if error is not None else "",
    )
