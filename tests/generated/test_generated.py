"""Thousands of generated files: no traceback, no hang, no growth, and nothing read differently from
an outside reader. A case is a kind and a number, so that one which fails can be run alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.generated import (
    config_cases,
    gguf_cases,
    safetensors_cases,
    template_cases,
    tokenizer_cases,
)

# Kind -> its check, cases in the quick suite, cases in all.
KINDS: dict[str, tuple[Callable[[int, Path], str], int, int]] = {
    "gguf": (gguf_cases.check, 80, 1800),
    "safetensors": (safetensors_cases.check, 80, 1200),
    "config": (config_cases.check, 24, 400),
    "tokenizer": (tokenizer_cases.check, 80, 1200),
    "template": (template_cases.check, 80, 800),
}
CHUNK = 100  # cases of one test in the slow suite


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where cases are written, one after the other; sound files stay."""
    return tmp_path_factory.mktemp("generated")


def run(kind: str, numbers: range, folder: Path) -> None:
    """Every case, and some of them accepted: a reader that refuses everything proves nothing."""
    check = KINDS[kind][0]
    seen: set[str] = set()
    for number in numbers:
        try:
            seen.add(check(number, folder))
        except BaseException as error:
            error.add_note(f"{kind} case {number}")
            raise
    assert seen - {"refused"}


@pytest.mark.parametrize("kind", KINDS)
def test_some_generated_files(kind: str, folder: Path) -> None:
    run(kind, range(KINDS[kind][1]), folder)


def chunks() -> list[tuple[str, int]]:
    """(kind, first number) of every chunk beyond the quick suite's cases."""
    return [(k, first) for k, (_, few, all_) in KINDS.items() for first in range(few, all_, CHUNK)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "first"), chunks())
def test_all_generated_files(kind: str, first: int, folder: Path) -> None:
    run(kind, range(first, min(first + CHUNK, KINDS[kind][2])), folder)


def test_there_are_as_many_cases_as_promised() -> None:
    assert sum(all_ for _, _, all_ in KINDS.values()) >= 5000
