"""Traces: a Chrome/Perfetto file of the whole worker, and the phases of one job.

The file has the JSON Array Format of the Trace Event specification. chrome://tracing and
ui.perfetto.dev open it even if the process died before it wrote the closing bracket. Times are
microseconds of this machine's monotonic clock, which is the same in the engine's process.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import msgspec

from rbee_worker.observe.log import fields, logger
from rbee_worker.observe.opening import opened
from rbee_worker.observe.subjects import JobRecord, StepFigures

SERVER, ENGINE, JOBS = 1, 2, 3  # process rows
FLUSH_BYTES = 1 << 16

log = logger("trace")


def now_us() -> float:
    """The clock of all traces, in microseconds."""
    return time.monotonic() * 1e6


def phases(job: JobRecord) -> list[dict[str, Any]]:
    """The phases of a job that has ended: `{"phase", "start_ms", "ms"}`, counted from its arrival.

    `prepare` is checking, template and tokenizer; queue, prefill and decode are the engine's own
    times; `send` is the total time of writing its stream so far, which overlaps the other phases.
    """
    assert job.end is not None
    usage = job.end.usage
    rows: list[dict[str, Any]] = []
    start = 0.0
    for name, spent in (
        ("prepare", job.prepared_ms),
        ("queue", usage.queue_ms),
        ("prefill", usage.prefill_ms),
        ("decode", usage.decode_ms),
    ):
        rows.append({"phase": name, "start_ms": round(start, 3), "ms": round(spent, 3)})
        start += spent
    rows.append({"phase": "send", "ms": round(job.send_ms, 3), "events": job.sent_events})
    return rows


class Tracer:
    """Writes the trace file. The engine's client calls `step` and `detokenized` as its observer."""

    def __init__(self, path: str) -> None:
        """Raises UsageError if the file cannot be opened. Where it can be written no further, the
        trace ends, with a line in the log, and nothing else does."""
        fix = "give a path that can be written."
        self._file: int | None = opened("--trace", path, os.O_TRUNC, mode=0o666, fix=fix)
        self._nbytes = 0  # of whole events in the file
        self._buffer = bytearray()
        self._between = b"[\n"  # before the next event
        self._encode = msgspec.json.Encoder().encode
        for row, name in ((SERVER, "server"), (ENGINE, "engine"), (JOBS, "jobs")):
            self._write({"ph": "M", "name": "process_name", "pid": row, "args": {"name": name}})
        self._threads = {"steps": 1, "sampling": 2, "detokenize": 3, "send": 4}
        for name, number in self._threads.items():
            row = ENGINE if number < 3 else SERVER
            self._write(
                {
                    "ph": "M",
                    "name": "thread_name",
                    "pid": row,
                    "tid": number,
                    "args": {"name": name},
                }
            )

    def step(self, times: StepFigures) -> None:
        """One engine step: prefill, decode or both, and the sampling inside it."""
        kinds = ["prefill"] if times.prompts else []
        kinds += ["decode"] if times.sequences > times.prompts else []
        kind = " + ".join(kinds)
        args = {
            "sequences": times.sequences,
            "prompt_tokens": times.prompt_tokens,
            "drawn": times.drawn,
        }
        self._span(ENGINE, "steps", kind, times.start_us, times.us, args)
        if times.drawn:
            self._span(
                ENGINE, "sampling", "sampling", times.sampling_start_us, times.sampling_us, {}
            )

    def detokenized(self, start_us: float, tokens: int) -> None:
        """The client turned `tokens` new ids into text."""
        if not tokens:
            return
        self._span(
            SERVER, "detokenize", "detokenize", start_us, now_us() - start_us, {"tokens": tokens}
        )

    def sent(self, start_us: float, events: int) -> None:
        """A stream wrote `events` events."""
        self._span(SERVER, "send", "send", start_us, now_us() - start_us, {"events": events})

    def job(self, job: JobRecord) -> None:
        """A job has ended: write its phases as a row of its own."""
        if job.end is None:
            return
        begin = job.born * 1e6
        common = {"cat": "job", "id": job.id, "pid": JOBS, "tid": 1}
        args = {"stop": job.end.stop.rule, "tokens": job.end.usage.output_tokens}
        self._write({"ph": "b", "name": "job", "ts": begin, "args": args, **common})
        for phase in phases(job):
            if "start_ms" not in phase:
                continue
            start = begin + phase["start_ms"] * 1e3
            self._write({"ph": "b", "name": phase["phase"], "ts": start, **common})
            end = start + phase["ms"] * 1e3
            self._write({"ph": "e", "name": phase["phase"], "ts": end, **common})
        self._write({"ph": "e", "name": "job", "ts": now_us(), **common})

    def flush(self) -> None:
        """Write the collected events to the file."""
        data = bytes(self._buffer)
        self._buffer.clear()
        if self._file is None:
            return
        try:
            self._write_all(data)
            self._nbytes += len(data)
        except OSError as error:
            log.error("cannot be written, and ends here", extra=fields(reason=error.strerror))
            file, self._file = self._file, None
            with suppress(OSError):  # half an event; a pipe takes nothing back
                os.ftruncate(file, self._nbytes)
            with suppress(OSError):
                os.close(file)

    def close(self) -> None:
        """Write the closing bracket and close the file."""
        self._buffer += b"\n]\n"
        self.flush()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write_all(self, data: bytes) -> None:
        assert self._file is not None
        while data:
            data = data[os.write(self._file, data) :]

    def _span(
        self, row: int, thread: str, name: str, start: float, spent: float, args: dict[str, Any]
    ) -> None:
        self._write(
            {
                "ph": "X",
                "name": name,
                "pid": row,
                "tid": self._threads[thread],
                "ts": round(start, 1),
                "dur": round(spent, 1),
                "args": args,
            }
        )

    def _write(self, event: dict[str, Any]) -> None:
        if self._file is None:
            return
        self._buffer += self._between + self._encode(event)
        self._between = b",\n"
        if len(self._buffer) > FLUSH_BYTES:
            self.flush()
