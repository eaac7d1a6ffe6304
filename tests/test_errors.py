"""Error lines: short, one line, always with what to do."""

import pytest

from rbee_worker import errors
from rbee_worker.errors import LINE, FieldError, InvalidRequest, WorkerError, one_line

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, WorkerError) and kind is not InvalidRequest
]


def made(kind: type[WorkerError], message: str, **more: str) -> WorkerError:
    takes_state = kind is errors.NotReady
    return kind("loading", message) if takes_state else kind(message, **more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("message", ["wrong.", "w" * 5000, "two\nlines\tand " + "more " * 200])
def test_every_error_is_one_short_line_with_a_fix(kind: type[WorkerError], message: str) -> None:
    line = made(kind, message).line
    assert len(line) <= LINE
    assert "\n" not in line
    assert line.count(" Fix: ") == 1
    assert line.split(" Fix: ")[1]


def test_a_fix_of_its_own_stays() -> None:
    assert errors.ModelError("a.", fix="b").line == "a. Fix: b"
    assert errors.ModelError("a. Fix: b").line == "a. Fix: b"  # as an engine sends it
    assert (
        errors.InvalidRequest([FieldError("a", "b", "c")]).line == "a: c. Fix: change what is named"
    )


def test_the_middle_gives_way() -> None:
    assert one_line("abc", 3) == "abc"
    assert one_line("0123456789", 7) == "0123…89"
    long = errors.ModelError("/a/path " + "x" * 900 + " the end.", fix="f" * 500)
    assert long.line.startswith("/a/path x")
    assert " the end. Fix: f" in long.line
    assert len(long.line) == LINE
