"""Text as MetaVoice was trained to read it (fam/llm/utils.py): Latin-1 without line breaks."""

from __future__ import annotations

import re

from rbee_worker.errors import FieldError, InvalidRequest

# Typographic characters -> what the authors' tokenizer has for them.
_PLAIN = {
    **dict.fromkeys((0x1FEF, 0x1FFD, 0x1FFE, 0x2018, 0x2019, 0x2032, 0x2035, 0xB4), "'"),
    **dict.fromkeys(range(0x2010, 0x2016), "-"),
    **dict.fromkeys((0x201C, 0x201D, 0x201F, 0x2033, 0x2036), '"'),
    0x2016: "||",
    0x201A: ",",
    0x201B: "`",
    0x201E: ",,",
    0x2024: ".",
    0x2025: "..",
    0x2026: "...",
    0x2122: "TM",
}
_MOST = 4  # characters that an error names


def spoken(text: str, field: str = "input") -> str:
    """The text without typographic marks, tabs and line breaks, blanks joined. Raises
    InvalidRequest for one with characters that the model does not know, or with nothing to say."""
    plain = text.translate(_PLAIN)
    unknown = list(dict.fromkeys(c for c in plain if ord(c) > 0xFF))
    if unknown:
        named = ", ".join(f"U+{ord(c):04X}" for c in unknown[:_MOST])
        more = f" and {len(unknown) - _MOST} more" if len(unknown) > _MOST else ""
        message = f"has characters that this model cannot read: {named}{more}"
        raise InvalidRequest([FieldError(field, "Latin-1", message)])
    made = re.sub(r"\s\s+", " ", re.sub(r"[\t\n\r*]", " ", plain).strip())
    if not made:
        raise InvalidRequest([FieldError(field, "length >= 1", "has nothing to say")])
    return made
