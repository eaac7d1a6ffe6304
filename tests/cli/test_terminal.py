"""What reaches a terminal: harmless, one line for an error, sizes people read."""

import pytest

from rbee_worker.cli.terminal import dim, error_line, size, visible


def test_control_characters_lose_their_power() -> None:
    assert visible("a\x1b[2J\rb\x07\x7f\x9b") == "a␛[2J␍b␇␡\ufffd"


def test_newline_tab_and_other_text_stay() -> None:
    text = "line\n\ttab é 日本 🙂"
    assert visible(text) == text


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error_line("first\nsecond   third")
    assert capsys.readouterr().err == "error: first second third\n"


def test_nothing_is_coloured_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    assert dim("text", sys.stderr) == "text"


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (93_400_000, "93.4 MB"), (1500, "1.5 kB"), (2e12, "2.0 TB")],
)
def test_sizes(nbytes: float, text: str) -> None:
    assert size(nbytes) == text
