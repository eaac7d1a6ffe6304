"""Makes untrusted text safe for a terminal."""

from __future__ import annotations

_PICTURES = {
    **{c: 0x2400 + c for c in range(0x20) if c not in (0x09, 0x0A)},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}


def visible(text: str) -> str:
    """`text` with its control characters shown, so that it cannot move the cursor or change the
    terminal.

    Control characters except newline and tab become their Unicode pictures: a model's answer, a
    file's name or a template's error may contain escape sequences.
    """
    return text.translate(_PICTURES)
