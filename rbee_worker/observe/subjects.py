"""Interfaces of the observed objects: a job, a worker, a step of the engine.

Metrics, traces and spans read these; the classes of the server and the engine implement them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from rbee_worker.model_info import Loss, ModelInfo
from rbee_worker.types import End, Started


class JobRecord(Protocol):
    """One request, from its arrival to its end. Times: `created` in Unix seconds, `born` and
    `last_token` in monotonic seconds, the others in milliseconds."""

    created: float
    born: float
    correlation_id: str
    prepared_ms: float
    send_ms: float
    sent_events: int
    last_token: float | None

    @property
    def id(self) -> str: ...

    @property
    def started(self) -> Started | None: ...

    @property
    def end(self) -> End | None: ...


class EngineFigures(Protocol):
    """The engine's latest figures (`messages.Stats`)."""

    @property
    def waiting(self) -> int: ...

    @property
    def running(self) -> int: ...

    @property
    def kv_used_blocks(self) -> int: ...

    @property
    def kv_cached_blocks(self) -> int: ...

    @property
    def kv_total_blocks(self) -> int: ...

    @property
    def tokens_in(self) -> int: ...

    @property
    def tokens_out(self) -> int: ...

    @property
    def cached_tokens(self) -> int: ...

    @property
    def preemptions(self) -> int: ...

    @property
    def drafted_tokens(self) -> int: ...

    @property
    def accepted_tokens(self) -> int: ...

    @property
    def steps(self) -> int: ...

    @property
    def step_ms(self) -> float: ...

    @property
    def busy_s(self) -> float: ...

    @property
    def utilisation(self) -> float: ...

    @property
    def floor_share(self) -> float: ...

    @property
    def device_used_bytes(self) -> int: ...

    @property
    def device_own_bytes(self) -> int: ...

    @property
    def device_total_bytes(self) -> int: ...


class JobFigures(Protocol):
    """A worker's jobs: those that have not ended, and of those that have and are kept, how many
    they are and what they take."""

    def live(self) -> Sequence[object]: ...

    @property
    def finished(self) -> int: ...

    @property
    def finished_bytes(self) -> int: ...


class JournalFigures(Protocol):
    """The journal of a worker's jobs (`server/keeper.py`)."""

    @property
    def state(self) -> str: ...

    @property
    def failures(self) -> int: ...

    @property
    def commits(self) -> int: ...

    @property
    def used_bytes(self) -> int: ...

    @property
    def tidied(self) -> int: ...

    @property
    def resumed(self) -> int: ...


class HolderFigures(Protocol):
    """One who may call (`server/limits.py`)."""

    @property
    def name(self) -> str: ...

    @property
    def live(self) -> int: ...

    @property
    def requests(self) -> int: ...

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def output_tokens(self) -> int: ...

    @property
    def refused(self) -> Mapping[str, int]: ...


class TokenFigures(Protocol):
    """All who may call. unauthorized: requests without one of their tokens."""

    @property
    def holders(self) -> Sequence[HolderFigures]: ...

    @property
    def unauthorized(self) -> int: ...


class WorkerFigures(Protocol):
    """A worker, as gauges read it."""

    @property
    def restarts(self) -> int: ...

    @property
    def losses(self) -> Mapping[Loss, int]: ...

    @property
    def state(self) -> str: ...

    @property
    def jobs(self) -> JobFigures: ...

    @property
    def model(self) -> ModelInfo | None: ...

    @property
    def stats(self) -> EngineFigures | None: ...

    @property
    def tokens(self) -> TokenFigures: ...

    @property
    def journal(self) -> JournalFigures | None: ...

    def age(self) -> float: ...


class StepFigures(Protocol):
    """One step of the engine (`messages.StepTimes`); times in microseconds, monotonic clock."""

    @property
    def start_us(self) -> float: ...

    @property
    def us(self) -> float: ...

    @property
    def sampling_start_us(self) -> float: ...

    @property
    def sampling_us(self) -> float: ...

    @property
    def sequences(self) -> int: ...

    @property
    def prompts(self) -> int: ...

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def drawn(self) -> int: ...
