"""`Option`: what the command line, the environment and the documentation know of one setting."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, NamedTuple

import msgspec

from rbee_worker.config.settings import Settings

ENV_PREFIX = "RBEE_"
SERVE = "Server options"  # the group of options that only `serve` has

_KINDS: dict[str, Any] = typing.get_type_hints(Settings)
_DEFAULTS: dict[str, Any] = {f.name: f.default for f in msgspec.structs.fields(Settings)}


class Option(NamedTuple):
    """One field of `Settings` as an option.

    low, high: the range of a number, both included, or without `low` (above). later: known values
    that this version does not support -> what to do instead; they are refused, not ignored.
    repeats: the flag may be given several times; check: raises UsageError for a bad text.
    """

    field: str
    help: str
    low: float | None = None
    high: float | None = None
    above: bool = False
    later: Mapping[str, str] = {}
    group: str = "Model options"
    also: tuple[str, ...] = ()  # other spellings of the flag
    repeats: bool = False
    check: Callable[[str], object] | None = None

    @property
    def flag(self) -> str:
        """The command-line spelling: kv_dtype -> --kv-dtype."""
        return "--" + self.field.replace("_", "-")

    @property
    def env(self) -> str:
        """The environment variable: kv_dtype -> RBEE_KV_DTYPE."""
        return ENV_PREFIX + self.field.upper()

    @property
    def kind(self) -> type:
        """bool, int, float or str."""
        declared = _KINDS[self.field]
        if isinstance(declared, UnionType):  # a number, or None for one that is not set
            declared = typing.get_args(declared)[0]
        return declared if isinstance(declared, type) else str

    @property
    def choices(self) -> tuple[str, ...]:
        """The words allowed, () when any will do."""
        return typing.get_args(_KINDS[self.field]) if self.kind is str else ()

    @property
    def default(self) -> Any:
        return _DEFAULTS[self.field]
