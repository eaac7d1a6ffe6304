"""What kind of picture a file is and how large, from its first bytes, whatever it is called.

Nothing is decoded: so a file that would unfold to more pixels than allowed is refused for the price
of its header. Formats: PNG (w3.org/TR/png-3), JPEG (ITU T.81, annex B), WebP (RFC 9649).
"""

from __future__ import annotations

from typing import NamedTuple

PNG, JPEG, WEBP = "PNG", "JPEG", "WebP"
READ = f"{PNG}, {JPEG} and {WEBP}"
_PNG = b"\x89PNG\r\n\x1a\n"
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # JPEG's markers of a frame
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # JPEG's markers without a segment

# First bytes of what people send instead, and its name.
_OTHERS = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"\xff\x0a", "JPEG XL"),
)


class Header(NamedTuple):
    """kind: `PNG`, `JPEG` or `WEBP`; width, height: in pixels, before any rotation."""

    kind: str
    width: int
    height: int


class NotRead(ValueError):
    """Why a file cannot be read, as the end of a sentence: "is GIF; .."."""


def look(data: bytes) -> Header:
    """The header of a picture's file. Raises NotRead."""
    if data.startswith(_PNG):
        found = _png(data)
    elif data.startswith(b"\xff\xd8\xff"):
        found = _jpeg(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        found = _webp(data)
    else:
        raise NotRead(_other(data))
    if found is None or not found.width or not found.height:
        raise NotRead("is damaged or incomplete")
    return found


def _other(data: bytes) -> str:
    if not data:
        return "is empty"
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    named = next((name for start, name in _OTHERS if data.startswith(start)), "")
    if brand[:3] in (b"hei", b"mif", b"msf", b"avi"):
        named = "AVIF" if brand[:3] == b"avi" else "HEIC"
    return f"is {named or 'no picture that is known here'}; {READ} are read"


def _png(data: bytes) -> Header | None:
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    return Header(PNG, int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))


def _jpeg(data: bytes) -> Header | None:
    """The size is in the first frame's segment, which has no fixed place."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a byte that fills
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _FRAMES and at + 9 <= len(data):
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return Header(JPEG, int.from_bytes(width, "big"), int.from_bytes(height, "big"))
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None


def _webp(data: bytes) -> Header | None:
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        width, height = (int.from_bytes(body[n : n + 3], "little") + 1 for n in (4, 7))
    elif kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(body[n : n + 2], "little") & 0x3FFF for n in (6, 8))
    else:
        return None
    return Header(WEBP, width, height)
