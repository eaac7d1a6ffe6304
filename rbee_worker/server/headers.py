"""The headers that this server reads: each at most once, each in a form that it understands.

If a header occurs twice, two readers (a proxy and this server) may each believe another one. A body
in a coding or a character set that is not decoded would be read as something else. Both are
refused, never guessed. So is a header that asks for an effect which a route does not have.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from starlette.datastructures import Headers

from rbee_worker.server.problems import Refusal

CORRELATION = "x-correlation-id"
IDEMPOTENCY = "idempotency-key"
RESUME = "last-event-id"
API_KEY = "x-api-key"
ONCE = (
    "host",
    "origin",
    "authorization",
    API_KEY,
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    RESUME,
    CORRELATION,
    IDEMPOTENCY,
)


class _Effect(NamedTuple):
    """Headers that ask for something. methods: with which they do; work: of routes that answer
    prompts only. instead: what has that effect here."""

    names: tuple[str, ...]
    methods: tuple[str, ...]
    instead: str
    work: bool = False


_ALL = ("GET", "HEAD", "POST", "DELETE")
_NO_VERSIONS = "nothing here has versions"
# What is in none of these rows may be ignored by the standard that defines it (Accept, Prefer,
# Range, Priority ..), or tells something and asks for nothing.
_EFFECTS = (
    _Effect((IDEMPOTENCY,), ("POST",), "POST /v1/jobs keeps such keys", work=True),
    _Effect(("x-idempotency-key",), ("POST",), "POST /v1/jobs reads Idempotency-Key", work=True),
    _Effect((RESUME,), ("POST",), "the streams of POST /v1/jobs can be resumed", work=True),
    _Effect(
        ("request-timeout", "x-request-timeout", "x-timeout", "grpc-timeout"),
        ("POST",),
        "timeout_s in the body limits a request",
        work=True,
    ),
    _Effect(("if-match", "if-unmodified-since"), _ALL, _NO_VERSIONS),
    _Effect(("if-none-match", "if-modified-since"), ("POST", "DELETE"), _NO_VERSIONS),
    _Effect(
        ("x-http-method-override", "x-http-method", "x-method-override"),
        _ALL,
        "the request line alone has the method",
    ),
)
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_KEY = re.compile(r"[!-~]{1,255}")
_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_UTF8 = ("", "utf-8", "utf8")


def malformed(headers: Headers, version: str) -> Refusal | None:
    """Why a request cannot be read as it was meant: 400 or 415. version: of HTTP, "1.1"."""
    for name in ONCE:
        if len(headers.getlist(name)) > 1:
            message = f"The header {name} is given more than once."
            return Refusal(400, "repeated_header", message, fix="send one.", param=name)
    host = headers.get("host")
    if host is None and version != "1.0":
        return Refusal(400, "no_host", "The header Host is missing.", fix="send one.", param="host")
    if host and _HOST.fullmatch(host) is None:
        message = "The header Host is not a host name with a port."
        return Refusal(400, "bad_host", message, fix="send name:port.", param="host")
    asked = headers.get(CORRELATION)
    if asked is not None and _CORRELATION_ID.fullmatch(asked) is None:
        message = "X-Correlation-ID is not a valid id."
        fix = "1 to 128 letters, digits and ._:/+=- or leave it out."
        return Refusal(400, "bad_correlation_id", message, fix=fix, param=CORRELATION)
    key = headers.get(IDEMPOTENCY)
    if key is not None and _KEY.fullmatch(key) is None:
        message = "Idempotency-Key is no key that can be kept."
        fix = "1 to 255 visible ASCII characters, or leave it out."
        return Refusal(400, "bad_idempotency_key", message, fix=fix, param=IDEMPOTENCY)
    return _coded(headers)


def without_effect(
    headers: Headers, method: str, *, read: Collection[str], work: bool
) -> Iterator[tuple[str, str]]:
    """(name, what has that effect instead) of headers that ask a route for what it does not do.

    read: names of the headers that the route reads; work: it answers prompts.
    """
    for effect in _EFFECTS:
        if method in effect.methods and (work or not effect.work):
            for name in effect.names:
                if name in headers and name not in read:
                    yield name, effect.instead


def _coded(headers: Headers) -> Refusal | None:
    """The refusal of a body in a coding or a character set that is not decoded here."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        message = f"Bodies in the coding {coding} are not read."
        fix = "send the JSON as it is, without Content-Encoding."
        return Refusal(415, "content_coding", message, fix=fix, param="content-encoding")
    transfer = headers.get("transfer-encoding", "chunked").strip().lower()
    if transfer != "chunked":
        message = f"Bodies in the transfer coding {transfer} are not read."
        return Refusal(
            415, "transfer_coding", message, fix="send it chunked, or with Content-Length."
        )
    charset = _charset(headers.get("content-type", ""))
    if charset not in _UTF8:
        message = f"Bodies in the character set {charset} are not read."
        return Refusal(415, "charset", message, fix="send UTF-8.", param="content-type")
    return None


def has_body(headers: Headers) -> bool:
    """Whether the request declares a body."""
    return length(headers) > 0 or "transfer-encoding" in headers


def length(headers: Headers) -> int:
    """Content-Length, 0 if there is none."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else 0


def media_type(headers: Headers) -> str:
    """Content-Type without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def host_name(host: str) -> str:
    """`host` without its port: "[::1]:80" -> "[::1]"."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


def _charset(content_type: str) -> str:
    parts: Sequence[str] = content_type.split(";")[1:]
    for part in parts:
        name, _, value = part.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower()
    return ""
