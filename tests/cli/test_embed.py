"""`rbee-worker embed`: JSON lines in and out, by the real program and a tiny encoder."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import encoders
from tests.encoders import ROWS, hidden, sentence_files, write

ROOT = Path(__file__).parents[2]
BERT = ROWS[0]
PROGRAM = "from rbee_worker.cli.main import main; main()"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = {"prompts": {"query": "the bee "}, "default_prompt_name": None}
    files = {**sentence_files(longest=40), "config_sentence_transformers": prompts}
    return write(BERT, tmp_path_factory.mktemp("embed") / "bert", **files)


def run(model: Path, *words: str, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", PROGRAM, "embed", "--model", str(model), *words]
    env = {**os.environ, "PYTHONPATH": path, "RBEE_THREADS": "1", **more}
    raw = given.encode("utf-8", "surrogateescape")
    done = subprocess.run(command, input=raw, capture_output=True, env=env)
    out, err = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(command, done.returncode, out, err)


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return written(done)


def written(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def wanted(ids: list[int]) -> np.ndarray:
    """What sentence-transformers gives: the mean, of length 1."""
    mean = hidden(BERT, ids).double().mean(0)
    vector: np.ndarray = (mean / mean.norm()).numpy()
    return vector


def ids_of(text: str) -> list[int]:
    """Of texts of one-letter words."""
    return [2, *(encoders.WORDS.index(word) for word in text.split()), 3]


def test_lines_in_lines_out(model: Path) -> None:
    """In their order, each with its id."""
    texts = ["a b c", "the bee", "x " * 30, "q"] * 20
    lines: list[Any] = [{"text": text, "id": [n]} for n, text in enumerate(texts)]
    lines[1] = texts[1]
    lines[3] = {"token_ids": ids_of("q")}
    found = rows(run(model, given="\n".join(map(json.dumps, lines)) + "\n\n"))
    assert [row["index"] for row in found] == [*range(len(texts))]
    assert [row.get("id") for row in found[:4]] == [[0], None, [2], None]
    for row, text in zip(found, texts, strict=True):
        assert row["tokens"] == len(ids_of(text))
        assert np.abs(np.array(row["embedding"]) - wanted(ids_of(text))).max() < 1e-6


def test_texts_on_the_command_line(model: Path) -> None:
    plain, packed = (run(model, "a b", "the bee", *more) for more in ((), ("--base64", "-q")))
    assert packed.stderr == ""
    assert "2 texts, 8 tokens" in plain.stderr
    for row, other in zip(rows(plain), rows(packed), strict=True):
        raw = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        assert np.array_equal(raw, np.array(row["embedding"], np.float32))


def test_options(model: Path) -> None:
    whole = wanted(ids_of("the bee a"))
    [row] = rows(run(model, "a", "--prompt-name", "query", "--dimensions", "5", "-q"))
    cut = whole[:5] / np.linalg.norm(whole[:5])
    assert np.abs(np.array(row["embedding"]) - cut).max() < 1e-6
    [row] = rows(run(model, "a " * 60, "--truncate"))
    assert row["tokens"] == 40
    assert row["warnings"] == ["cut from 62 to 40 tokens"]


@pytest.mark.parametrize(
    ("words", "given", "says"),
    [
        ((), '"a"\n{"txt": "b"}\n', "line 2: cannot be read (Object contains unknown field"),
        ((), '"a"\nnonsense\n', "line 2: cannot be read"),
        ((), '{"id": 1}\n', "line 1: has not exactly one of text and token_ids"),
        ((), '"a"\n""\n""\nnonsense\n', "line 2: prompt: is empty"),
        ((), '{"token_ids": [999]}\n', "line 1: token_ids: entry 0 is no id of the vocabulary"),
        (("a " * 60,), "", "text 1: prompt: has 62 tokens and the limit is 40"),
        (("a", "--dimensions", "65"), "", "dimensions: must be at most the model's 64"),
        (("a", "--prompt-name", "x"), "", "is not one of the model's prompts (query)"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    model: Path, words: tuple[str, ...], given: str, says: str
) -> None:
    done = run(model, *words, "-q", given=given)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    before = 1 if says.startswith("line 2") else 0
    assert [row["index"] for row in written(done)] == [*range(before)]
    assert line.startswith("error: ")
    assert says in line
    assert len(line) <= 300


def test_a_line_that_is_not_utf_8(model: Path) -> None:
    """As Python reads stdin in the C locale, which containers have."""
    given, way = '"a"\n"\udcff"\n', "utf-8:surrogateescape"
    done = run(model, "-q", given=given, PYTHONIOENCODING=way)
    assert done.returncode == 2
    assert done.stderr == "error: line 2: is not UTF-8 text. Fix: convert it to UTF-8.\n"
    assert [row["index"] for row in written(done)] == [0]
