"""`--lora`: which adapters to load, as the command line and the environment say it. Torch-free."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from msgspec import Struct

from rbee_worker.errors import UsageError

SEPARATOR = ";"  # between two adapters in one text
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
NAME = re.compile(rf"(?=.{{1,64}}\Z){_WORD}(?:/{_WORD})*")  # it stands in paths of URLs
_FORM = "NAME=REF or NAME=REF,scale=NUMBER"
_SCALE = ",scale="


class AdapterSpec(Struct, frozen=True, kw_only=True):
    """An adapter to load: its name in requests, where it is, and a factor on all that it adds."""

    name: str
    ref: str
    scale: float = 1.0


def parse_specs(text: str) -> tuple[AdapterSpec, ...]:
    """The adapters of a `--lora` text, several separated by semicolons. Raises UsageError."""
    specs = [_spec(one.strip()) for one in text.split(SEPARATOR) if one.strip()]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--lora: two adapters are named {name!r}.", fix="rename one.")
    return tuple(specs)


def written(specs: Iterable[AdapterSpec]) -> str:
    """The inverse of `parse_specs`."""
    return SEPARATOR.join(f"{s.name}={s.ref}{_SCALE}{s.scale!r}" for s in specs)


def check_name(name: str) -> None:
    """Raise UsageError for what cannot be an adapter's name."""
    if NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name[:80]!r} cannot name an adapter.",
            fix="use 1 to 64 letters, digits, dots, dashes and underscores; a letter or a digit "
            "comes first, also after a slash.",
        )


def _spec(text: str) -> AdapterSpec:
    name, equals, rest = text.partition("=")
    ref, given, number = rest.partition(_SCALE)
    if not equals or not ref:
        raise UsageError(f"--lora {text[:80]!r}: not an adapter.", fix=f"write {_FORM}.")
    check_name(name)
    return AdapterSpec(name=name, ref=ref, scale=_scale(number) if given else 1.0)


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise UsageError(f"--lora: the scale {text[:40]!r} is no number.", fix=f"write {_FORM}.")
    return scale
