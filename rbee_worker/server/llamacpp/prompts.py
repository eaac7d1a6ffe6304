"""llama.cpp's forms of a prompt: texts, ids, both mixed, objects, and lists of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rbee_worker.errors import FieldError
from rbee_worker.server.given_texts import Prompt
from rbee_worker.server.pictures import several as pictures
from rbee_worker.types import PictureFile

if TYPE_CHECKING:
    from rbee_worker.tokenizer.core import Tokenizer

MARK = "<__media__>"  # llama.cpp's name for a picture's place
_FORMS = "must be a text, ids, both mixed, an object with prompt_string, or a list of these"


def several(given: Any) -> bool:
    """Whether the value is a list of prompts, not one prompt."""
    return isinstance(given, list) and not _is_one(given)


class Shown(NamedTuple):
    """A text with pictures, where `MARK` stands for each."""

    text: str
    files: tuple[PictureFile, ...]


def prompts_of(
    given: Any, most: int, tokenizer: Tokenizer, faults: list[FieldError]
) -> list[Prompt | Shown]:
    """The prompts, as texts or ids; faults in their form are added to `faults`. May take long."""
    if given is None:
        faults.append(FieldError("prompt", "required", "is required"))
        return []
    if not several(given):
        return [_one(given, "prompt", tokenizer, faults)]
    if not 1 <= len(given) <= most:
        faults.append(FieldError("prompt", f"1..{most} prompts", f"must be 1..{most} prompts"))
        return []
    return [_one(one, f"prompt[{n}]", tokenizer, faults) for n, one in enumerate(given)]


def _is_one(given: Sequence[Any]) -> bool:
    """Whether a list is one prompt: it has ids, and nothing but ids and texts."""
    kinds = {type(item) for item in given}
    return int in kinds and kinds <= {int, str}


def _one(given: Any, name: str, tokenizer: Tokenizer, faults: list[FieldError]) -> Prompt | Shown:
    if isinstance(given, str):
        return given
    if isinstance(given, dict):
        return _object(given, name, faults)
    if not isinstance(given, list) or not given or not _is_one(given):
        faults.append(FieldError(name, "a prompt", _FORMS))
        return "?"
    ids: list[int] = []
    for place, item in enumerate(given):
        if isinstance(item, str):
            ids += tokenizer.encode(item, add_special=place == 0, parse_special=True)
        else:
            ids.append(item)
    return tuple(ids)


def _object(given: dict[str, Any], name: str, faults: list[FieldError]) -> str | Shown:
    text, data = given.get("prompt_string"), given.get("multimodal_data") or []
    where = f"{name}.multimodal_data"
    if not isinstance(data, list) or not all(isinstance(one, str) for one in data):
        faults.append(FieldError(where, "a list of base64", "must be a list of texts in base64"))
        data = []
    odd = next((key for key in given if key not in ("prompt_string", "multimodal_data")), None)
    if odd is not None:
        faults.append(FieldError(f"{name}.{odd[:64]}", "a known field", "is not known here"))
    if isinstance(text, str):
        return Shown(text, pictures(data, where, faults)) if data else text
    faults.append(FieldError(f"{name}.prompt_string", "a string", "must be a string"))
    return "?"


def text_alone(prompt: Prompt | Shown, faults: list[FieldError], name: str) -> Prompt:
    """A prompt where pictures mean nothing; they are a fault of the field `name`."""
    if not isinstance(prompt, Shown):
        return prompt
    faults.append(FieldError(name, "text", "has pictures, of which no vectors are made"))
    return prompt.text
