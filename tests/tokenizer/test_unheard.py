"""A panic of the tokenizers library is one line of ours: its own trace is not on standard error."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from rbee_worker.errors import InferenceFailed
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.unheard import unheard
from tests.tokenizer.test_bounds import SLOW, tokenizer

ENDLESS = "a" * 40 + "!"  # for the pattern of SLOW


def fails(ours: Tokenizer, text: str) -> None:
    with pytest.raises(InferenceFailed, match="tokenizer fails on this text"):
        ours.encode(text)


def test_a_pattern_of_its_own_panics_unheard(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fails(tokenizer(tmp_path, pre_tokenizer=SLOW), ENDLESS)
    assert capfd.readouterr().err == ""


def test_a_published_pattern_panics_unheard(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ten million steps of one match are the library's limit."""
    fails(tokenizer(tmp_path), " " * 11_000_000 + "x")
    assert capfd.readouterr().err == ""


def test_what_others_write_meanwhile_is_heard(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ours = tokenizer(tmp_path, pre_tokenizer=SLOW)
    done, lines = threading.Event(), 0

    def work() -> None:
        fails(ours, ENDLESS)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set() or lines == 0:
        os.write(2, b"line %d\n" % lines)
        lines += 1
        time.sleep(0.001)
    thread.join()
    assert capfd.readouterr().err == "".join(f"line {n}\n" for n in range(lines))


def test_a_call_gives_and_raises_what_it_would(capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    assert unheard(lambda: os.write(2, b"unheard")) == 7
    with pytest.raises(ZeroDivisionError):
        unheard(lambda: 1 // 0)
    assert sorted(os.listdir("/proc/self/fd")) == before
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
