"""`Tokens`: who may call. One token from the environment, more from a file, or none in local mode.

The file is TOML, a table for each token by its holder's name:

    [ci]
    sha256 = "9f86d0..."        # or: token = "...", in a file that nobody else can read
    concurrency = 4
    tokens_per_minute = 60000
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.server.limits import Call, Holder, Limits

MIN_TOKEN = 16
MOST = 256  # tokens in a file; each has its own metrics
DEFAULT, LOCAL = "default", "local"  # holders of RBEE_API_TOKEN, and of any request in local mode
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file."""

    token: str = ""
    sha256: str = ""
    concurrency: int = 0
    tokens_per_minute: int = 0


class Tokens:
    """Holders by name, each with the digest of its token. unauthorized: requests without one."""

    def __init__(self, settings: Settings, token: str = "") -> None:
        """token: of the environment, if there is one. Raises UsageError for a bad file."""
        self.path = Path(settings.tokens_file) if settings.tokens_file else None
        self.local = settings.local_mode
        self.unauthorized = 0
        self._token = token
        self._holders: dict[str, Holder] = {}
        self._leaving: dict[str, Holder] = {}  # who is gone, while something still runs for him
        self._digests: list[tuple[bytes, Holder]] = []
        self.reload()

    @property
    def holders(self) -> Sequence[Holder]:
        """All that may call, for metrics."""
        return list(self._holders.values())

    def reload(self) -> None:
        """Read the file again. Who stays keeps counts and places. Raises UsageError, and nothing
        has changed."""
        rows: dict[str, tuple[bytes, Limits]] = {}
        if self._token:
            rows[DEFAULT] = (digest(self._token), Limits())
        if self.path is not None:
            for name, row in read_file(self.path).items():
                if name in rows:
                    raise self._bad(f"{name!r} is the name of RBEE_API_TOKEN's holder")
                secret = digest(row.token) if row.token else bytes.fromhex(row.sha256)
                limits = Limits(
                    concurrency=row.concurrency, tokens_per_minute=row.tokens_per_minute
                )
                rows[name] = (secret, limits)
        elif self.local:
            rows[LOCAL] = (b"", Limits())
        if len({secret for secret, _ in rows.values()}) < len(rows):
            raise self._bad("two names have the same token")
        known = {**self._leaving, **self._holders}
        holders = {name: known.get(name) or Holder(name) for name in rows}
        self._leaving = {n: h for n, h in known.items() if n not in rows and h.live}
        for name, holder in holders.items():
            holder.limits = rows[name][1]
        self._holders = holders
        self._digests = [(secret, holders[name]) for name, (secret, _) in rows.items()]

    def _bad(self, what: str) -> UsageError:
        return _bad(self.path or Path("RBEE_API_TOKEN"), what)

    def find(self, given: bytes) -> Holder | None:
        """Whose token this is. Takes the same time whatever is given."""
        known = hashlib.sha256(given).digest()
        found = None
        for secret, holder in self._digests:
            if hmac.compare_digest(secret, known):
                found = holder
        return found

    def anybody(self) -> Holder:
        """The holder of every request in local mode."""
        return self._holders[LOCAL]

    def accepted(self, name: str) -> Call | None:
        """The call of a job that an earlier process accepted; None if its holder has gone."""
        holder = self._holders.get(name)
        return None if holder is None else Call(holder, accepted=True)


def digest(token: str) -> bytes:
    """What is compared, and what `sha256` in the file is."""
    return hashlib.sha256(token.encode()).digest()


def read_tokens(settings: Settings, environ: Mapping[str, str]) -> Tokens:
    """Who may call this worker. Raises UsageError if mode and tokens conflict."""
    token = environ.get("RBEE_API_TOKEN") or environ.get("LLORCH_API_TOKEN") or ""
    if settings.local_mode:
        if token or settings.tokens_file:
            what = "RBEE_API_TOKEN is set" if token else "--tokens-file is given"
            raise UsageError(
                f"--local-mode serves without a token, but {what}.",
                fix="unset RBEE_API_TOKEN (and LLORCH_API_TOKEN) and leave --tokens-file out, or "
                "leave --local-mode out.",
            )
        return Tokens(settings)
    if not token and not settings.tokens_file:
        raise UsageError(
            "A worker that others can reach needs a token.",
            fix=f"set RBEE_API_TOKEN (at least {MIN_TOKEN} characters), give --tokens-file, or use "
            "--local-mode.",
        )
    if token:
        check_secret(token, "RBEE_API_TOKEN")
    return Tokens(settings, token)


def check_secret(token: str, name: str) -> None:
    """Raises UsageError for a token that is too short, or that no header can carry."""
    if len(token) < MIN_TOKEN:
        raise UsageError(f"{name} has {len(token)} characters.", fix=f"use at least {MIN_TOKEN}.")
    if not token.isascii() or not token.isprintable() or token != token.strip():
        raise UsageError(
            f"{name} has characters that no header can carry.",
            fix="use printable ASCII, without spaces around it.",
        )


def read_file(path: Path) -> dict[str, _Row]:
    """The tables of a tokens file, checked. Raises UsageError, whose text holds no token."""
    try:
        with path.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            tables: dict[str, Any] = tomllib.load(opened)
    except OSError as error:
        raise _bad(path, error.strerror or str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise _bad(path, "it is no TOML") from None
    if not tables:
        raise _bad(path, "it names no token")
    if len(tables) > MOST:
        raise _bad(path, f"it has {len(tables)} tokens, of at most {MOST}")
    rows = {name: _row(path, name, table) for name, table in tables.items()}
    if any(row.token for row in rows.values()) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            f"--tokens-file {path} holds tokens and others can read it (mode {mode & 0o777:04o}).",
            fix="chmod 600, or put their sha256 into it.",
        )
    return rows


def _row(path: Path, name: str, table: Any) -> _Row:
    if _NAME.fullmatch(name) is None:
        raise _bad(path, "names have 1 to 64 letters, digits and ._-")
    try:
        row = msgspec.convert(table, _Row)
    except msgspec.ValidationError as error:
        told = str(error)
        if "unknown field" not in told:
            told = told.partition("`, got")[0].replace("Expected `", "a value is not of the type ")
        raise _bad(path, f"[{name}]: {told}") from None
    if bool(row.token) == bool(row.sha256):
        raise _bad(path, f"[{name}] needs either token or sha256")
    if row.token:
        check_secret(row.token, f"--tokens-file {path}: the token of {name}")
    elif _SHA256.fullmatch(row.sha256) is None:
        raise _bad(path, f"[{name}]: sha256 is not 64 hexadecimal digits in lower case")
    if row.concurrency < 0 or row.tokens_per_minute < 0:
        raise _bad(path, f"[{name}]: a limit is below 0")
    return row


def _bad(path: Path, what: str) -> UsageError:
    return UsageError(f"--tokens-file {path}: {what}.", fix="see docs/security.md, Tokens.")
