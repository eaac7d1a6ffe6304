"""What the journal keeps: a job as it was accepted, and its events, as bytes with a checksum."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from msgspec import Struct

from rbee_worker.types import Event, Request

T = TypeVar("T")
_ENCODER = msgspec.msgpack.Encoder()


class Record(Struct, frozen=True, kw_only=True):
    """A job as it was accepted. `request` has neither prompt nor parameters: the job's first event
    has both, as ids and resolved. created: Unix seconds; timeout_s in it counts from then. key,
    digest: of its Idempotency-Key, "" if it came without one."""

    id: str
    created: float
    request: Request
    correlation_id: str = ""
    owner: str = ""  # whose token it was asked for with
    trace: bool = False
    key: str = ""
    digest: bytes = b""


@dataclass(frozen=True)
class Accept:
    """Keep a job and its first events."""

    record: Record
    events: Sequence[Event]


@dataclass(frozen=True)
class Append:
    """Keep events of a job, the first of them at `place`. finished: Unix seconds, if they are the
    last ones."""

    job_id: str
    place: int
    events: Sequence[Event]
    finished: float | None = None


@dataclass(frozen=True)
class Remove:
    """Forget jobs."""

    job_ids: Sequence[str]


@dataclass(frozen=True)
class Note:
    """Say something about the worker that the jobs are of."""

    name: str
    value: str


Entry = Accept | Append | Remove | Note


@dataclass
class Kept:
    """A job as the journal has it. finished: Unix seconds; None: it has not ended."""

    record: Record
    finished: float | None
    events: list[Event] = field(default_factory=list)


class Damaged(Exception):
    """Bytes that are not those that were written."""


_RECORD = msgspec.msgpack.Decoder(Record)
_EVENTS = msgspec.msgpack.Decoder(list[Event])


def packed(value: Record | Sequence[Event]) -> tuple[bytes, int]:
    """The bytes of `value` and their checksum."""
    data = _ENCODER.encode(value)
    return data, zlib.crc32(data)


def record_of(data: bytes, check: int) -> Record:
    """Raises Damaged."""
    return _unpacked(_RECORD, data, check)


def events_of(data: bytes, check: int) -> list[Event]:
    """Raises Damaged."""
    return _unpacked(_EVENTS, data, check)


def _unpacked(decoder: msgspec.msgpack.Decoder[T], data: bytes, check: int) -> T:
    if zlib.crc32(data) != check:
        raise Damaged("the checksum is another one")
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise Damaged(str(error)) from None
