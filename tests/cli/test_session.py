"""What a person sees while a model is fetched and loaded."""

import pytest

from rbee_worker.cli.session import Progress, words
from rbee_worker.engine.messages import Loading


def fetching(done: int, total: int = 98_400_000) -> Loading:
    return Loading(stage="downloading", bytes_loaded=done, bytes_total=total)


def compiling(done: int, item: str = "") -> Loading:
    return Loading(stage="compiling", item=item, layers_loaded=done, layers_total=21)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (fetching(1_000_000), "Fetching the model: 1.0 MB of 98.4 MB."),
        (fetching(1_000_000, 0), "Fetching the model: 1.0 MB."),
        (Loading(stage="opening"), "Opening the model."),
        (
            Loading(stage="loading", layers_loaded=3, layers_total=30),
            "Loading the model: 3 of 30 layers.",
        ),
        (compiling(0), "Compiling CPU kernels: 0 of 21."),
        (compiling(7, "attend.f16"), "Compiling CPU kernels: 7 of 21, attend.f16."),
    ],
)
def test_words(message: Loading, text: str) -> None:
    assert words(message) == text


def test_off_a_terminal_a_download_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(quiet=False)
    for message in (Loading(stage="opening"), fetching(1), fetching(2), Loading(stage="loading")):
        progress(message)
    progress.done()
    assert capsys.readouterr().err == "Fetching the model (98.4 MB).\n"


def test_off_a_terminal_compiling_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(quiet=False)
    for message in (Loading(stage="opening"), compiling(0), compiling(1), compiling(2)):
        progress(message)
    assert capsys.readouterr().err == "Compiling 21 CPU kernels for this processor.\n"


def test_an_unknown_size_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(quiet=False)(fetching(0, 0))
    assert capsys.readouterr().err == "Fetching the model.\n"


def test_quiet_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(quiet=True)(fetching(1))
    assert capsys.readouterr().err == ""


def test_loading_again_does_not_write_over_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that is lost is replaced in the middle of an answer, whose last line is where
    progress would be shown, and would be removed with it."""
    monkeypatch.setattr("rbee_worker.cli.terminal.is_rich", lambda _: True)
    progress = Progress(quiet=False)
    progress(Loading(stage="loading", layers_loaded=3, layers_total=30))
    progress.done()
    assert capsys.readouterr().err.endswith("\r\x1b[2K")
    progress(Loading(stage="loading", layers_loaded=3, layers_total=30))
    progress(compiling(1))
    progress.done()
    assert capsys.readouterr().err == ""
