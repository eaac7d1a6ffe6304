"""What a request says about the form of its answer, under any of its names, as one `Constraint`.

Only the shape of these keys is checked here: whether a schema or a grammar can be held is for
`rbee_worker.constraints`. The names are OpenAI's (`response_format`), vLLM's (`structured_outputs`,
`guided_...`), llama.cpp's (`json_schema`, `grammar`), and plain ones (`regex`, `choice`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from rbee_worker.errors import FieldError
from rbee_worker.params.parameter import TEXTS, Parameter
from rbee_worker.params.repeated import repeated
from rbee_worker.types import Constraint

MAX_TEXT = 1 << 18  # characters of a schema or grammar
MAX_CHOICES = 4096
ANY_OBJECT = '{"type":"object"}'


def _row(name: str, meaning: str, *off: Any) -> Parameter:
    return Parameter(
        name=name, kind="any", meaning=meaning, role="constraint", off=off, surfaces=TEXTS
    )


CONSTRAINTS = (
    _row(
        "response_format",
        "OpenAI's: text, json_object (any object), or json_schema (strict or not, the answer "
        "follows the schema)",
        {"type": "text"},
    ),
    _row(
        "structured_outputs",
        "vLLM's: one of json, json_object, regex, choice and grammar",
        {},
    ),
    _row("json_schema", "a JSON Schema: the answer is one JSON value that follows it"),
    _row("guided_json", "json_schema under vLLM's name; an object, or its JSON as a string"),
    _row("regex", "a regular expression for the whole answer", ""),
    _row("guided_regex", "regex under vLLM's name", ""),
    _row("choice", f"up to {MAX_CHOICES} strings: the answer is one of them", []),
    _row("guided_choice", "choice under vLLM's name", []),
    _row(
        "grammar",
        "the answer follows a grammar: GBNF as in llama.cpp (rule `root ::=`), or Lark (rule "
        "`start:`)",
        "",
    ),
    _row("guided_grammar", "grammar under vLLM's name", ""),
)

Read = tuple[str, Constraint] | FieldError | None  # with the field that it was found in


def read_constraint(key: str, value: Any) -> Read:
    """The constraint that the key `key` asks for and the field that has it, such as
    "response_format.json_schema.schema"; None if it asks for none. value: not None."""
    return _READERS[key](key, value)


def asks_for_constraint(params: Mapping[str, Any]) -> bool:
    """Whether a request has one of the keys."""
    return any(params.get(key) is not None for key in _READERS)


def _fault(field: str, wanted: str, message: str) -> FieldError:
    return FieldError(field, wanted, message)


def _response_format(key: str, value: Any) -> Read:
    kinds = "text, json_object or json_schema"
    if not isinstance(value, Mapping):
        return _fault(key, "an object", f"must be an object with a type: {kinds}")
    match value.get("type"):
        case "text":
            return _unread(key, value, ("type",))
        case "json_object":
            schema = value.get("schema")
            wrong = _unread(key, value, ("type", "schema"))
            if wrong is not None or schema is not None:
                return wrong or _schema(f"{key}.schema", schema)
            return key, Constraint(kind="json_schema", text=ANY_OBJECT)
        case "json_schema":
            return _named_schema(key, value)
    return _fault(f"{key}.type", kinds, f"must be {kinds}")


def _named_schema(key: str, value: Mapping[str, Any]) -> Read:
    """{"type": "json_schema", "json_schema": {"name", "schema", ..}}, or llama.cpp's form, which
    has the schema itself beside the type."""
    if "json_schema" not in value and "schema" in value:
        return _unread(key, value, ("type", "schema")) or _schema(f"{key}.schema", value["schema"])
    wrong = _unread(key, value, ("type", "json_schema"))
    inner, where = value.get("json_schema"), f"{key}.json_schema"
    if wrong is not None:
        return wrong
    if not isinstance(inner, Mapping):
        return _fault(where, "an object", "must be an object with a name and a schema")
    wrong = _unread(where, inner, ("name", "description", "schema", "strict"))
    if wrong is not None:
        return wrong
    for name, kind, said in (
        ("name", str, "a string"),
        ("description", str, "a string"),
        ("strict", bool, "true or false"),
    ):
        if inner.get(name) is not None and not isinstance(inner[name], kind):
            return _fault(f"{where}.{name}", said, f"must be {said}")
    if inner.get("schema") is None:
        return _fault(f"{where}.schema", "required", "is required")
    return _schema(f"{where}.schema", inner["schema"])


def _structured(key: str, value: Any) -> Read:
    if not isinstance(value, Mapping):
        return _fault(key, "an object", f"must be an object with one of {', '.join(_INNER)}")
    asked = {n: v for n, v in value.items() if v not in (None, False) and not (v == {} or v == [])}
    other = [n for n in asked if n not in _INNER]
    if other:
        known = ", ".join(_INNER)
        return _fault(f"{key}.{other[0][:64]}", f"one of {known}", f"is not implemented: {known}")
    if len(asked) > 1:
        both = " and ".join(asked)
        return _fault(key, "one constraint", f"has {both}: give one of them")
    for name, inner in asked.items():
        return _INNER[name](f"{key}.{name}", inner)
    return None


def _object(key: str, value: Any) -> Read:
    if value is not True:
        return _fault(key, "true or false", "must be true or false")
    return key, Constraint(kind="json_schema", text=ANY_OBJECT)


def _schema(key: str, value: Any) -> Read:
    """A schema as an object (or true, or false), or as the JSON of one."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            return _too_long(key, value)
        try:
            text, value = value, msgspec.json.decode(value)
            twice = repeated(text)
        except (msgspec.DecodeError, RecursionError, ValueError):
            return _fault(key, "a JSON Schema", "is a string that is not JSON")
        if twice:
            return _fault(key, "each name once", f"gives the name {twice[0][:64]!r} twice")
    if not isinstance(value, Mapping | bool):
        return _fault(key, "a JSON Schema", "must be a JSON Schema: an object, true or false")
    try:
        text = msgspec.json.encode(value).decode()
    except (RecursionError, ValueError, TypeError):  # nested too deeply, or half a surrogate pair
        return _fault(key, "a JSON Schema", "cannot be written as JSON")
    return _sized(key, Constraint(kind="json_schema", text=text))


def _regex(key: str, value: Any) -> Read:
    if not isinstance(value, str):
        return _fault(key, "a string", "must be a regular expression, as a string")
    return _sized(key, Constraint(kind="regex", text=value)) if value else None


def _choice(key: str, value: Any) -> Read:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        return _fault(key, "strings", "must be a list of strings")
    if len(value) > MAX_CHOICES:
        return _fault(key, f"<= {MAX_CHOICES} strings", f"must be at most {MAX_CHOICES} strings")
    if not value:
        return None
    try:
        text = msgspec.json.encode(list(value)).decode()
    except ValueError:
        return _fault(key, "Unicode", "a string has half of a surrogate pair")
    return _sized(key, Constraint(kind="choice", text=text))


def _grammar(key: str, value: Any) -> Read:
    wanted = "GBNF with a rule `root ::= ..`, or Lark with a rule `start: ..`"
    if not isinstance(value, str):
        return _fault(key, "a string", f"must be a string: {wanted}")
    if not value:
        return None
    gbnf = re.search(r"^[ \t]*root[ \t]*::=", value, re.MULTILINE) is not None
    lark = re.search(r"^[ \t]*\??start\b[^:\n]*:(?!:=)", value, re.MULTILINE) is not None
    if gbnf == lark:
        return _fault(key, wanted, f"must be {wanted}; it has {'both' if gbnf else 'neither'}")
    return _sized(key, Constraint(kind="gbnf" if gbnf else "lark", text=value))


def _sized(key: str, constraint: Constraint) -> Read:
    if len(constraint.text) > MAX_TEXT:
        return _too_long(key, constraint.text)
    return key, constraint


def _too_long(key: str, text: str) -> FieldError:
    message = f"has {len(text)} characters and the limit is {MAX_TEXT}"
    return _fault(key, f"length <= {MAX_TEXT}", message)


def _unread(key: str, value: Mapping[str, Any], known: tuple[str, ...]) -> FieldError | None:
    """The fault of a name in an object that would not be read."""
    for name, inner in value.items():
        if name not in known and inner is not None:
            message = f"is not known here; known: {', '.join(known)}"
            return _fault(f"{key}.{str(name)[:64]}", "a known field", message)
    return None


_Reader = Callable[[str, Any], Read]
_INNER: dict[str, _Reader] = {
    "json": _schema,
    "json_object": _object,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
}
_READERS: dict[str, _Reader] = {
    "response_format": _response_format,
    "structured_outputs": _structured,
    "json_schema": _schema,
    "guided_json": _schema,
    "regex": _regex,
    "guided_regex": _regex,
    "choice": _choice,
    "guided_choice": _choice,
    "grammar": _grammar,
    "guided_grammar": _grammar,
}
