"""llama.cpp's own server tests, with `rbee-worker serve` in the place of llama-server:

    python -m benchmarks.llamacpp_tests [--tree CHECKOUT] [--only PATTERN] [--json FILE] [--write]

The tests come from the source distribution of llama-cpp-python and are run as they are; only their
conftest.py, which downloads models, is replaced. Tiny random models stand in for theirs: what a
test expects of a model's words, no other model can say. --tree runs the worker of another checkout.
--write puts the table into docs/clients.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from benchmarks import document
from benchmarks.llamacpp_shim import MARK, MODELS, TREE, WORKERS
from tests.encoders import ROWS
from tests.encoders import write as write_encoder
from tests.llamacpp.source import unpacked
from tests.server.talking import write as write_chat
from tests.tiny import TEMPLATE

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/clients.md"
PARTS = ("tools/server/tests/", "models/templates/")
INSIDE = "tools/server/tests"
CONFTEST = """import pytest
from utils import *


@pytest.fixture(autouse=True)
def stop_servers():
    yield
    for server in set(server_instances):
        server.stop()
"""
NO_DOWNLOADS = """def download(url, out=None):
    raise RuntimeError("nothing is downloaded")
"""
FIM = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "<repo_name>")
CONTEXT = 1 << 15  # tokens of the models: the tests ask for up to 8,192 for each of four slots
FILE_S = 1500  # seconds for one file of tests


class Reason(NamedTuple):
    """Why tests fail: the first whose pattern is in the failure."""

    pattern: str
    words: str


REASONS = (
    Reason(
        MARK + r"--(lora|models|mcp|tools|ui-mcp|sleep|media|tags)", "{0}: not a part of a worker"
    ),
)


class Result(NamedTuple):
    name: str
    outcome: str  # passed, failed, skipped
    reason: str


def models(folder: Path) -> None:
    """The models that stand in for llama.cpp's."""
    for name, tokens in (("chat", ()), ("infill", FIM)):
        path = write_chat(folder / name, TEMPLATE, tokens=tokens, rows=True) / "config.json"
        config = json.loads(path.read_text()) | {"max_position_embeddings": CONTEXT}
        path.write_text(json.dumps(config))
    rows = {row.id: row for row in ROWS}
    write_encoder(rows["bert"], folder / "embed")
    write_encoder(rows["bert-one-class"], folder / "rerank")


def run(tree: Path, only: str) -> list[Result]:
    """The results of all tests."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tests = unpacked(work / "llama.cpp", PARTS) / INSIDE
        (tests / "conftest.py").write_text(CONFTEST)
        (tests / "wget.py").write_text(NO_DOWNLOADS)
        (tests / "shim").write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -m benchmarks.llamacpp_shim "$@"\n'
        )
        (tests / "shim").chmod(0o755)
        models(work / "models")
        env = {
            **os.environ,
            MODELS: str(work / "models"),
            TREE: str(tree),
            "LLAMA_SERVER_BIN_PATH": str(tests / "shim"),
            "PYTHONPATH": os.pathsep.join([str(tests), str(ROOT)]),
        }
        found: list[Result] = []
        for file in sorted((tests / "unit").glob("test_*.py")):
            if re.search(only, file.name):
                found += run_file(file, tests, env)
                end_workers(work / "models" / WORKERS)
        return found


def end_workers(notes: Path) -> None:
    """End the workers that the shim has left running."""
    for note in notes.glob("*.json"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(json.loads(note.read_text())["pid"], signal.SIGKILL)
        note.unlink()


def run_file(file: Path, tests: Path, env: dict[str, str]) -> list[Result]:
    report = tests / f"{file.stem}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    command += [
        "--rootdir",
        str(tests),
        "-o",
        "junit_logging=all",
        f"--junitxml={report}",
        str(file),
    ]
    try:
        subprocess.run(
            command, cwd=tests, env=env, capture_output=True, timeout=FILE_S, check=False
        )
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"{file.name}: not done after {FILE_S} s\n")
    if not report.exists():
        return [Result(file.stem, "failed", "the file did not end")]
    found = [result(case) for case in ET.parse(report).iter("testcase")]
    sys.stderr.write(f"{file.stem} {dict(Counter(r.outcome for r in found))}\n")
    return found


def result(case: ET.Element) -> Result:
    name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
    if case.find("skipped") is not None:
        return Result(name, "skipped", case.find("skipped").get("message", ""))  # type: ignore[union-attr]
    bad = case.find("failure") if case.find("failure") is not None else case.find("error")
    if bad is None:
        return Result(name, "passed", "")
    text = "\n".join([bad.get("message", ""), bad.text or "", *(e.text or "" for e in case)])
    return Result(name, "failed", reason_of(text))


def reason_of(text: str) -> str:
    for reason in REASONS:
        if (match := re.search(reason.pattern, text)) is not None:
            return reason.words.format(*match.groups())
    told = re.findall(re.escape(MARK) + r"[^\n]*", text)
    last = [line for line in text.splitlines() if line.startswith("E  ")][:2]
    return " ".join(told[-1:] or last)[:200]


def lines(found: list[Result]) -> list[str]:
    """The table of results."""
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    found = run(asked.tree.resolve(), asked.only)
    if asked.json is not None:
        asked.json.write_text(json.dumps([r._asdict() for r in found], indent=1))
    sys.stdout.write(f"{dict(Counter(r.outcome for r in found))}\n")
    if asked.write:
        document.write("llamacpp", lines(found), PAGE)


if __name__ == "__main__":
    main()
