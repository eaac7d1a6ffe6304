"""A `Constraint` as the text of a grammar in llguidance's dialect of Lark."""

from __future__ import annotations

import json
import re

from msgspec.json import decode, encode

from rbee_worker.constraints.compiled import OPTIONS
from rbee_worker.constraints.exact import exact
from rbee_worker.constraints.gbnf import lark_of_gbnf
from rbee_worker.constraints.regex import portable
from rbee_worker.constraints.schema import check_schema, has_open_names
from rbee_worker.constraints.unheld import Unheld
from rbee_worker.types import Constraint

# White space between the parts of a JSON value: none, a blank, or a line feed and an indentation.
# Without a bound a model that likes blanks would never come to the end of an answer.
WHITE_SPACE = r"[ ]|\n[ \t]{0,40}"

_LETTERS = 'nrbtf\\"'  # behind a backslash; without u

_SCHEMA = re.compile(r"%json\s*(?=\{)")
_WITHOUT_EFFECT = re.compile(r"\[[^\]\n]*\b(temperature|capture|stop|stop_capture)\b[^\]\n]*\]\s*:")


def grammar_of(constraint: Constraint) -> str:
    """The grammar of answers that follow `constraint`. Raises Unheld.

    What only the library can find out is not checked here (`check.py`).
    """
    match constraint.kind:
        case "json_schema":
            return _lark(f"start: {json_rule(decode(constraint.text))}")
        case "regex":
            return _lark(f"start: /{_slashed(portable(constraint.text))}/")
        case "choice":
            texts = " | ".join(json.dumps(text) for text in decode(constraint.text))
            return _lark(f"start: CHOICE\nCHOICE: {texts}")
        case "gbnf":
            return _lark(lark_of_gbnf(constraint.text))
        case "lark":
            option = _WITHOUT_EFFECT.search(constraint.text)
            if option is not None:
                raise Unheld(f"the option {option[1]!r} of a rule has no effect here", "")
            return _lark(_with_schemas(constraint.text))


def json_rule(schema: object) -> str:
    """The right side of a Lark rule for JSON values that follow a schema. Raises Unheld."""
    check_schema(schema)
    options = {"whitespace_pattern": WHITE_SPACE}
    if has_open_names(schema):
        options["json_allowed_escapes"] = _LETTERS
    held = {} if schema is True else schema
    if not isinstance(held, dict):
        raise Unheld("no value satisfies false", "")
    return "%json " + encode({**exact(held), "x-guidance": options}).decode()


def _with_schemas(lark: str) -> str:
    """A grammar in Lark whose schemas (`%json {..}`) are held like any other."""
    parts, at = [], 0
    for found in _SCHEMA.finditer(lark):
        if found.start() < at:
            continue  # in the text of a schema
        try:
            schema, end = json.JSONDecoder().raw_decode(lark, found.end())
        except (ValueError, RecursionError):
            continue  # the library says where it is wrong
        parts += [lark[at : found.start()], json_rule(schema)]
        at = end
    return "".join([*parts, lark[at:]])


def _lark(rules: str) -> str:
    return f"{rules}\n{OPTIONS}\n"


def _slashed(regex: str) -> str:
    """A regular expression as it stands between slashes in Lark."""
    from llguidance import regex_to_lark

    return str(regex_to_lark(regex, ""))
