"""Faults told under the names that another API has for the worker's own fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from msgspec.structs import replace

from rbee_worker.errors import FieldError, InvalidRequest

_BORDERS = ("", ".", "[", "#")  # what may follow a field's name in the place of a fault


class FieldNames(NamedTuple):
    """names: the worker's own -> the caller's, where the longest that fits counts. whole: own names
    whose inner places are not the caller's, and are left out."""

    names: Mapping[str, str]
    whole: tuple[str, ...] = ()

    def told(self, fault: FieldError) -> FieldError:
        """The fault under the caller's name."""
        for own in sorted(self.names, key=len, reverse=True):
            rest = fault.field.removeprefix(own)
            if fault.field.startswith(own) and rest[:1] in _BORDERS:
                name = self.names[own] + ("" if own in self.whole else rest)
                return replace(fault, field=name)
        return fault

    @contextmanager
    def used(self) -> Iterator[None]:
        """Faults that are raised inside are raised again under the caller's names."""
        try:
            yield
        except InvalidRequest as error:
            raise InvalidRequest([self.told(f) for f in error.errors], fix=error.fix) from None


SAME = FieldNames({})
