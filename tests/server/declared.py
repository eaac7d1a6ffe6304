"""Requests as the official clients declare them: typed dicts (openai, anthropic) and pydantic
models (ollama), walked down to the last field, each of which is sent with values that matter."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import typing_extensions
from pydantic import BaseModel

_SCALARS: dict[Any, tuple[Any, Any]] = {
    str: ("x", "other"),
    bytes: ("eA==", "b3RoZXI="),
    bool: (True, False),
    int: (1, 2),
    float: (0.5, 0.25),
    object: ({"x": 1}, {"x": 2}),
    Any: ({"x": 1}, {"x": 2}),
}
_DEEPEST = 6  # fields inside fields: types that hold themselves end here
Place = Callable[[Any], Any]
Examples = Mapping[str, Any]  # "Type.field" or "field" -> a value that fits, where no other would


class Field(NamedTuple):
    name: str
    kind: Any
    required: bool


class Told(NamedTuple):
    """What came of a request. effect: what the engine was asked for and what the caller is told;
    refusal: the text of the error, "" if there is none."""

    effect: Any
    refusal: str


def is_record(kind: Any) -> bool:
    return typing_extensions.is_typeddict(kind) or (
        isinstance(kind, type) and issubclass(kind, BaseModel)
    )


def fields(kind: Any) -> Iterator[Field]:
    """Of a record."""
    if not typing_extensions.is_typeddict(kind):
        for name, row in kind.model_fields.items():
            yield Field(row.alias or name, row.annotation, row.is_required())
        return
    for name, hint in typing_extensions.get_type_hints(kind, include_extras=True).items():
        required, inner = kind.__total__, hint
        while (origin := get_origin(inner)) in (
            typing.Required,
            typing.NotRequired,
            typing.Annotated,
        ):
            if origin is not typing.Annotated:
                required = origin is typing.Required
            inner = get_args(inner)[0]
        yield Field(name, inner, required)


def options(kind: Any) -> list[Any]:
    """The members of a union, without None; of anything else itself."""
    while get_origin(kind) is typing.Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return [one for inner in get_args(kind) for one in options(inner)]
    return [] if kind is type(None) else [kind]


def members(kind: Any) -> list[Any] | None:
    """What a sequence holds; None if it is none."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is None or origin is Literal or not inside or issubclass(origin, Mapping):
        return None
    return options(inside[0])


class Walk:
    """One kind of request. send: sends a body. silent, unnamed: the fields that changed nothing,
    and those that were refused in words that do not name them."""

    def __init__(self, send: Callable[[Any], Told], examples: Examples) -> None:
        self._send, self._examples = send, examples
        self.silent: list[str] = []
        self.unnamed: list[str] = []
        self.count = 0

    def smallest(self, kind: Any, which: int = 0) -> Any:
        """A value with what is required only; which: 1 gives another one."""
        if is_record(kind):
            return {f.name: self._given(kind, f) for f in fields(kind) if f.required}
        origin, inside = get_origin(kind), get_args(kind)
        if origin is Literal:
            return inside[min(which, len(inside) - 1)]
        if (held := members(kind)) is not None:
            return [self.smallest(held[0], which)] if held else []
        if origin is not None:
            return {"x": self.smallest(options(inside[1])[0], which)}
        return _SCALARS.get(kind, _SCALARS[str])[which]

    def _known(self, kind: Any, field: Field) -> Any:
        return self._examples.get(f"{kind.__name__}.{field.name}", self._examples.get(field.name))

    def _given(self, kind: Any, field: Field) -> Any:
        known = self._known(kind, field)
        return self.smallest(options(field.kind)[0]) if known is None else known

    def record(self, kind: Any, place: Place, path: str = "", depth: int = 0) -> None:
        """Try every field of a record. place: puts a value of that kind into a request."""
        least = self.smallest(kind)
        before = self._send(place(least))
        assert not before.refusal, f"{path}: {before.refusal}"
        for field in fields(kind):
            name = f"{path}.{field.name}" if path else field.name

            def put(value: Any, field: Field = field) -> Any:
                return place({**least, field.name: value})

            values: list[Any] = []
            literals: list[Any] = []
            kinds: list[str] = []  # of records that ask for nothing else than absence does
            for option in options(field.kind):
                if get_origin(option) is Literal:
                    literals += [v for v in get_args(option) if v != least.get(field.name)]
                elif records := [o for o in members(option) or [option] if is_record(o)]:
                    for one in records:
                        part = f"{name}({one.__name__})"
                        many = members(option) is not None
                        kinds += [part] * self._part(part, put, one, many, depth, before)
                else:
                    values.append(self.smallest(option, which=int(field.required)))
            if not field.required:
                self.silent += kinds[1:]
            self._literals(name, put, literals, before, free=not field.required)
            known = self._known(kind, field)
            if not field.required and known is not None:
                values = [known]
            for value in values:
                if self._same(name, put(value), before, _words(value)):
                    self.silent.append(name)

    def _literals(
        self, name: str, put: Place, values: list[Any], before: Told, *, free: bool
    ) -> None:
        """Values of a fixed set. free: one of them may be what absence means."""
        same = [v for v in values if self._same(name, put(v), before, [str(v)])]
        kept = same[1:] if free and (len(values) > 1 or values == [False]) else same
        self.silent += [f"{name} = {value}" for value in kept]

    def _part(self, name: str, put: Place, kind: Any, many: bool, depth: int, before: Told) -> bool:
        """A record in a field, or in a list in a field, and then its own fields. Returns whether
        one with what it must have asks for nothing."""

        def inside(value: Any) -> Any:
            return put([value] if many else value)

        least = self.smallest(kind)
        same = self._same(name, inside(least), before, _words(least))
        if not self._send(inside(least)).refusal and depth < _DEEPEST:
            self.record(kind, inside, name, depth + 1)
        return same and bool(least)

    def _same(self, name: str, body: Any, before: Told, words: list[str]) -> bool:
        """Whether a body asks for what was asked for before."""
        told = self._send(body)
        self.count += 1
        own = [part.partition("(")[0] for part in name.split(".")][-2:]
        if told.refusal and not any(word in told.refusal for word in [*own, *words]):
            self.unnamed.append(f"{name}: {told.refusal[:200]}")
        return told == before


def _words(value: Any) -> list[str]:
    """The kind that a record says it has."""
    return [str(value[k]) for k in ("type", "role") if isinstance(value, dict) and k in value]
