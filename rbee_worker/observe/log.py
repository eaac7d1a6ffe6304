"""Logging set-up: the standard library's, to stderr, as key=value text or one JSON object per line.

Call sites write `log.info("engine ready", extra=fields(load_s=0.4))`: a constant sentence and named
values. The text of a prompt or an answer is never a value: `fields` refuses names that would hold
it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

from rbee_worker.errors import one_line
from rbee_worker.observe.visible import visible

ROOT = "rbee_worker"
_VALUE = 1024  # longest logged value, in characters
_FIELDS = "rbee_fields"
_NEVER = frozenset({"prompt", "text", "messages", "content", "token_ids", "ids", "stop"})


def logger(name: str) -> logging.Logger:
    """The logger of one part: `logger("engine")` is `rbee_worker.engine`."""
    return logging.getLogger(f"{ROOT}.{name}")


def fields(**values: Any) -> dict[str, Any]:
    """Named values for `extra=`. A name that would hold a user's text is a defect."""
    assert not _NEVER & values.keys(), "prompt and answer text is never logged"
    return {_FIELDS: values}


def setup(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send this package's records of `level` and above to `stream` (default: stderr).

    level: "debug", "info", "warning", "error". form: "text" or "json". Replaces an earlier set-up.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else KeyValue())
    root = logging.getLogger(ROOT)
    root.handlers = [handler]
    root.setLevel(level.upper())
    root.propagate = False


class KeyValue(logging.Formatter):
    """2026-01-31T12:00:00Z INFO engine: engine ready load_s=0.4"""

    def format(self, record: logging.LogRecord) -> str:
        values = " ".join(f"{k}={_plain(v)}" for k, v in _values(record).items())
        message = " ".join(record.getMessage().splitlines())
        line = f"{_stamp(record)} {record.levelname} {_part(record)}: {message}"
        return visible(" ".join(filter(None, (line, values))) + _trace(self, record))


class JsonLines(logging.Formatter):
    """{"time", "level", "part", "message", ...the record's fields}"""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "part": _part(record),
            "message": record.getMessage(),
            **_values(record),
        }
        if trace := _trace(self, record):
            line["traceback"] = trace.strip()
        return json.dumps(line, ensure_ascii=False, default=str)


def _values(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = record.__dict__.get(_FIELDS, {})
    return found


def _part(record: logging.LogRecord) -> str:
    return record.name.removeprefix(ROOT + ".")


def _stamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))


def _plain(value: Any) -> str:
    """A value without spaces as it is, any other quoted as JSON. Control characters are made
    visible, because callers choose paths and names."""
    text = one_line(str(value), _VALUE)
    quoted = not text or any(c.isspace() or c in '"=' for c in text)
    return json.dumps(text, ensure_ascii=False) if quoted else text


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return "\n" + formatter.formatException(record.exc_info) if record.exc_info else ""
