"""Log lines: their two forms, and what never stands in them."""

import io
import json
import logging

import pytest

from rbee_worker.observe import log


@pytest.fixture(autouse=True)
def restored() -> object:
    root = logging.getLogger(log.ROOT)
    before = (root.handlers, root.level, root.propagate)
    yield
    root.handlers, root.propagate = before[0], before[2]
    root.setLevel(before[1])


def logged(form: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    log.setup(level, form, stream)
    return stream


def test_text_is_key_value_and_quotes_what_has_spaces() -> None:
    stream = logged("text")
    log.logger("engine").info("engine ready", extra=log.fields(load_s=0.4, model="a b", empty=""))
    stamp, rest = stream.getvalue().split(" ", 1)
    assert rest == 'INFO engine: engine ready load_s=0.4 model="a b" empty=""\n'
    assert stamp.endswith("Z")


def test_json_is_one_object_a_line_with_values_as_they_are() -> None:
    stream = logged("json")
    log.logger("engine").info("engine ready", extra=log.fields(load_s=0.4))
    log.logger("cli").warning("two\nlines")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["part"], first["load_s"], first["level"]) == ("engine", 0.4, "info")
    assert second["message"] == "two\nlines"


def test_level_is_honoured_and_a_second_set_up_replaces_the_first() -> None:
    logged("text")
    stream = logged("text", "error")
    log.logger("engine").warning("unheard")
    log.logger("engine").error("heard")
    assert [line.split(": ")[1] for line in stream.getvalue().splitlines()] == ["heard"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_comes_along(form: str) -> None:
    stream = logged(form)
    try:
        raise ValueError("deep")
    except ValueError:
        log.logger("engine").exception("step failed")
    assert "ValueError: deep" in stream.getvalue()


@pytest.mark.parametrize("name", ["prompt", "text", "messages", "token_ids"])
def test_a_persons_text_is_no_field(name: str) -> None:
    with pytest.raises(AssertionError, match="never logged"):
        log.fields(**{name: "secret"})
