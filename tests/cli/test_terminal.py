"""What reaches a terminal: harmless, one line for an error, sizes people read."""

from collections.abc import Callable

import pytest

from rbee_worker.cli.terminal import Status, aside, dim, error_line, note, one_row, size
from rbee_worker.observe.visible import visible


def test_control_characters_lose_their_power() -> None:
    assert visible("a\x1b[2J\rb\x07\x7f\x9b") == "a␛[2J␍b␇␡\ufffd"


def test_newline_tab_and_other_text_stay() -> None:
    text = "line\n\ttab é 日本 🙂"
    assert visible(text) == text


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error_line("first\nsecond   third")
    assert capsys.readouterr().err == "error: first second third\n"


@pytest.mark.parametrize("say", [error_line, note, aside])
def test_no_message_can_steer_the_terminal(
    say: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    say("a\x1b[2J\x07b\x9bc\x7f")
    assert capsys.readouterr().err.endswith("a␛[2J␇b\ufffdc␡\n")


def test_the_changing_line_cannot_either(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rbee_worker.cli.terminal.is_rich", lambda stream: True)
    Status().show("\x1b[31mname\nx")
    assert capsys.readouterr().err == "\r\x1b[2K\x1b[2m␛[31mname x\x1b[0m"


def test_a_row_keeps_its_spaces_and_stays_one() -> None:
    assert one_row("  a\nb\x1b") == "  a␊b␛"


def test_nothing_is_coloured_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    assert dim("text", sys.stderr) == "text"


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (93_400_000, "93.4 MB"), (1500, "1.5 kB"), (2e12, "2.0 TB")],
)
def test_sizes(nbytes: float, text: str) -> None:
    assert size(nbytes) == text
