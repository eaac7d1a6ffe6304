"""An error is one line: short, with its fix, and with nothing in it that a terminal would obey."""

from __future__ import annotations

import io
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_worker import errors
from rbee_worker.cli.terminal import error_line
from rbee_worker.errors import (
    LINE,
    MOST_FAULTS,
    FieldError,
    InvalidRequest,
    UsageError,
    WorkerError,
    one_line,
)
from rbee_worker.extras import explained
from rbee_worker.observe import log

ANY = st.text(st.characters(codec=None, categories=None), max_size=700)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "DEVICE_LOST"),
        (RuntimeError("Triton Error [CUDA]: unspecified launch failure"), "DEVICE_LOST"),
        (RuntimeError("No CUDA GPUs are available"), "DEVICE_LOST"),
        (errors.DeviceLost("gone"), "DEVICE_LOST"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), None),
        (RuntimeError("CUDA error: invalid argument"), None),
        (ValueError("the text has an illegal memory access in it"), None),
    ],
)
def test_which_errors_mean_that_a_device_is_lost(error: Exception, code: str | None) -> None:
    lost = errors.device_lost(error)
    assert (None if lost is None else lost.code) == code
    assert lost is None or explained(error) is not None


@given(ANY, st.none() | ANY)
def test_any_error_is_a_short_line_that_can_be_shown(message: str, fix: str | None) -> None:
    text = str(UsageError(message, fix=fix))
    assert len(text) <= LINE
    assert ("Fix: " in text) >= (fix is not None)
    text.encode()  # no lone surrogates
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with é, 日本 and 🙂", "plain, with é, 日本 and 🙂"),
        ("a\nb\tc\r\0d", "a␊b␉c␍␀d"),
        ("\x1b[31mred\x7f", "␛[31mred␡"),
        ("\x9b31m", "\ufffd31m"),
        ("abc\u202etxt.exe", "abc\ufffdtxt.exe"),
        ("a\u2028b\ud800", "a\ufffdb\ufffd"),
    ],
)
def test_control_characters_are_pictures(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_what_is_too_long_loses_its_middle_and_keeps_its_ends() -> None:
    text = "".join(chr(ord("a") + i % 26) for i in range(900))
    short = one_line(text, 100)
    assert len(short) == 100
    head, _, tail = short.partition("…")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert min(len(head), len(tail)) > 20


def test_message_and_fix_share_the_line_and_both_are_kept_whole() -> None:
    error = UsageError("m" * 900, fix="f" * 900)
    text = str(error)
    assert text.startswith("m" * 50)
    assert " Fix: fff" in text
    assert len(text) == LINE
    assert error.fix == "f" * 900
    short = UsageError("no such thing", fix="make one.")
    assert str(short) == "no such thing. Fix: make one."


def test_many_faults_are_counted() -> None:
    faults = [FieldError(f"f{i}", "c", "is wrong") for i in range(MOST_FAULTS + 936)]
    error = InvalidRequest(faults)
    assert len(error.told) == MOST_FAULTS + 1
    assert error.told[-1].message == "and 936 more faults, which are not listed"
    assert InvalidRequest(faults[:MOST_FAULTS]).told == faults[:MOST_FAULTS]
    assert str(error).endswith("and 936 more faults, which are not listed")


def test_the_line_of_a_command_has_300_characters_at_most(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error_line(str(UsageError("\x1b]0;title\x07" * 200, fix="x" * 400)))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ␛]0;title␇")
    assert len(line) <= 300


def test_log_lines_obey_nothing_either() -> None:
    stream = io.StringIO()
    try:
        log.setup("info", "text", stream)
        log.logger("http").info("request", extra=log.fields(path="/\x1b[2J\nfake line", n=1))
    finally:
        log.setup("warning", "text", sys.stderr)
    [line] = stream.getvalue().splitlines()
    assert line.endswith('http: request path="/␛[2J␊fake line" n=1')


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
    refused = errors.InvalidRequest([FieldError("a", "b", "c")])
    assert refused.line == "a: c. Fix: change the fields that are named"


def test_the_middle_gives_way() -> None:
    assert one_line("abc", 3) == "abc"
    assert one_line("0123456789", 7) == "0123…89"
    long = errors.ModelError("/a/path " + "x" * 900 + " the end.", fix="f" * 500)
    assert long.line.startswith("/a/path x")
    assert " the end. Fix: f" in long.line
    assert len(long.line) == LINE
