"""What the programs share: each tries its features, one after another, and prints what became of
them as one JSON object. Run as `python PROGRAM.py URL TOKEN URL-FOR-VECTORS`."""

import json
import sys
from collections.abc import Callable

URL, TOKEN, VECTORS = sys.argv[1:4]
MODEL = "smollm2"
# the number after the # chooses the worker's answer
CHAT, CALL, TOLD, THING = "#0 How is it?", "#1 How is the weather?", "#2 sunny", "#3 A thing?"
SUNNY, FINAL = "It is sunny.", "Köln is sunny."
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "size": {"type": "integer"}},
    "required": ["name", "size"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


def outcome(check: Callable[[], object]) -> str:
    try:
        check()
    except Exception as error:
        line = " ".join(str(error).split())
        kind = "refused" if "Fix: " in line else "failed"
        return f"{kind}: {type(error).__name__}: {line[:300]}"
    return "works"


def main(**features: Callable[[], object]) -> None:
    print(json.dumps({name: outcome(check) for name, check in features.items()}))


def raises(call: Callable[[], object], kind: type[BaseException]) -> None:
    """A value out of range is refused with the parameter's name, in the client's own error."""
    tells(call, kind, "temperature")


def tells(call: Callable[[], object], kind: type[BaseException], word: str) -> None:
    """The call raises such an error, with this word in it."""
    try:
        call()
    except kind as error:
        if word not in str(error):
            raise
    else:
        raise AssertionError("no error")
