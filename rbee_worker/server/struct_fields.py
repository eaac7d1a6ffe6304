"""Fields of a struct, looked up once: msgspec evaluates all annotations whenever it is asked."""

from __future__ import annotations

from functools import cache

from msgspec import Struct
from msgspec.structs import FieldInfo, fields


@cache
def struct_fields(kind: type[Struct]) -> tuple[FieldInfo, ...]:
    """As `msgspec.structs.fields`."""
    return fields(kind)
