"""Pictures in the bodies of requests: data URLs and base64, of any API. Nothing is fetched."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Any

from rbee_worker.errors import MOST_FAULTS, FieldError
from rbee_worker.types import Detail, PictureFile

_SPACES = " \t\r\n"  # base64 is often written in lines
_SCHEMES = ("http:", "https:", "file:", "ftp:", "gs:", "s3:")


def from_url(
    url: str, field: str, faults: list[FieldError], *, detail: Detail = "auto"
) -> PictureFile:
    """The picture of a data URL; a fault is added to `faults`. What the URL says of the picture's
    kind is not believed: the file says it itself."""
    head, comma, text = url.partition(",")
    if head[:5].lower() != "data:":
        faults.append(FieldError(field, "a data URL", _no_url(url)))
        return PictureFile(data=b"", detail=detail, field=field)
    if not comma or not head.lower().endswith(";base64"):
        message = "is a data URL without base64: send data:image/png;base64,..."
        faults.append(FieldError(field, "a data URL in base64", message))
        return PictureFile(data=b"", detail=detail, field=field)
    return from_base64(text, field, faults, detail=detail)


def _no_url(url: str) -> str:
    if url.lower().startswith(_SCHEMES):
        what = "is not fetched: this worker opens no connections and no files for a request"
        return f"{what}; send the picture as a data URL (data:image/png;base64,...)"
    return "is no data URL: send the picture as data:image/png;base64,..."


def from_base64(
    text: str, field: str, faults: list[FieldError], *, detail: Detail = "auto"
) -> PictureFile:
    """The picture of a text in base64; a fault is added to `faults`."""
    if any(space in text for space in _SPACES):
        text = "".join(text.split())
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
        data = b""
        faults.append(FieldError(field, "base64", "is not valid base64"))
    return PictureFile(data=data, detail=detail, field=field)


def from_any(text: str, field: str, faults: list[FieldError]) -> PictureFile:
    """The picture of a data URL or of base64 alone."""
    read = from_url if ":" in text[:16] else from_base64
    return read(text, field, faults)


def part(file: PictureFile) -> dict[str, Any]:
    """A part of a message's content that is a picture, until `taken` takes the file out of it."""
    return {"type": "image", "file": file}


def taken(
    messages: Iterable[dict[str, Any]],
) -> tuple[tuple[dict[str, Any], ...], tuple[PictureFile, ...]]:
    """The messages as a template reads them, and the files of their pictures, in order."""
    files: list[PictureFile] = []
    found = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and any("file" in p for p in content):
            files += [p["file"] for p in content if "file" in p]
            bare = [{k: v for k, v in p.items() if k != "file"} for p in content]
            message = {**message, "content": bare}
        found.append(message)
    return tuple(found), tuple(files)


def several(given: Sequence[str], name: str, faults: list[FieldError]) -> tuple[PictureFile, ...]:
    """The pictures of a list: data URLs, or base64 alone."""
    found: list[FieldError] = []
    files = tuple(from_any(text, f"{name}[{n}]", found) for n, text in enumerate(given))
    # beyond those that are listed, faults are only counted
    faults += found[:MOST_FAULTS] + found[MOST_FAULTS - 1 : MOST_FAULTS] * (
        len(found) - MOST_FAULTS
    )
    return files
