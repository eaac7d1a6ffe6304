"""llama.cpp's own server tests, with `rbee-worker serve` in the place of llama-server:

    python -m benchmarks.llamacpp_tests [--tree CHECKOUT] [--only PATTERN] [--json FILE [--resume]]
    python -m benchmarks.llamacpp_tests [--results FILE] [--before FILE] --write

The tests come from the source distribution of llama-cpp-python and are run as they are; only their
conftest.py, which downloads models, is replaced. Tiny random models stand in for theirs, and
pictures of noise for those that the tests fetch: what a test expects of a model's words, no other
model can say. --tree runs the worker of another checkout.
--json has what is done after each file of tests, and --resume goes on with those not in it.
--write puts the table into docs/clients.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from datetime import date
from pathlib import Path
from typing import NamedTuple

from benchmarks import document
from benchmarks.llamacpp_reasons import OTHER, reason_of
from benchmarks.llamacpp_shim import MODELS, TREE, WORKERS
from tests.encoders import ROWS
from tests.encoders import write as write_encoder
from tests.llamacpp.source import unpacked
from tests.pictures.making import drawn, saved
from tests.pictures.whole import write_smolvlm
from tests.server.talking import write as write_chat
from tests.tiny import TEMPLATE

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/clients.md"
PARTS = ("tools/server/tests/", "models/templates/")
INSIDE = "tools/server/tests"
CONFTEST = """from pathlib import Path

import pytest
import requests
from utils import *

PICTURES = Path(__file__).parent / "pictures"


@pytest.fixture(autouse=True)
def stand_in_pictures(monkeypatch):
    get = requests.get

    def instead(url, **options):
        file = PICTURES / url.rpartition("/")[2]
        if not file.is_file():
            return get(url, **options)
        found = requests.Response()
        found.status_code, found._content = 200, file.read_bytes()
        return found

    monkeypatch.setattr(requests, "get", instead)


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
PICTURES = ("11_truck.png", "91_cat.png")
CONTEXT = 1 << 15  # tokens of the models: the tests ask for up to 8,192 for each of four slots
FILE_S = 1500  # seconds for one file of tests


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
    (folder / "see").mkdir()
    write_smolvlm(folder / "see", CONTEXT)


def pictures(folder: Path) -> None:
    """The pictures that stand in for those that the tests themselves fetch."""
    folder.mkdir()
    for seed, name in enumerate(PICTURES):
        (folder / name).write_bytes(saved(drawn(32, 32, seed)))


def run(tree: Path, only: str, kept: Path | None, done: list[Result]) -> list[Result]:
    """The results of all tests. kept: a file that has them after each file of tests; done: those
    of an earlier run, whose files are not run again."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tests = unpacked(work / "llama.cpp", PARTS) / INSIDE
        (tests / "conftest.py").write_text(CONFTEST)
        (tests / "wget.py").write_text(NO_DOWNLOADS)
        (tests / "shim").write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -m benchmarks.llamacpp_shim "$@"\n'
        )
        (tests / "shim").chmod(0o755)
        pictures(tests / "pictures")
        models(work / "models")
        env = {
            **os.environ,
            MODELS: str(work / "models"),
            TREE: str(tree),
            "PORT": str(free_port()),
            "LLAMA_SERVER_BIN_PATH": str(tests / "shim"),
            "PYTHONPATH": os.pathsep.join([str(tests), str(ROOT)]),
        }
        found = list(done)
        before = {r.name.partition("::")[0] for r in done}
        for file in sorted((tests / "unit").glob("test_*.py")):
            if re.search(only, file.name) and file.stem not in before:
                found += run_file(file, tests, env)
                end_workers(work / "models" / WORKERS)
                if kept is not None:
                    kept.write_text(json.dumps([r._asdict() for r in found], indent=1))
        return found


def free_port() -> int:
    """A port that nothing listens on: a test takes an answer of any server for its own's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


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


def lines(found: list[Result], before: list[Result]) -> list[str]:
    """The shares, and the reasons of what fails."""
    found = sorted(found, key=lambda r: r.name.partition("::")[0])  # a run may have been stopped
    passed_before = {r.name for r in before if r.outcome == "passed"}
    rows = []
    for file in dict.fromkeys(r.name.partition("::")[0] for r in found):
        own = [r for r in found if r.name.partition("::")[0] == file and r.outcome != "skipped"]
        passed = sum(r.outcome == "passed" for r in own)
        earlier = sum(r.name in passed_before for r in own)
        rows.append([f"`{file}`", str(len(own)), str(earlier) if before else "", str(passed)])
    run_all = [r for r in found if r.outcome != "skipped"]
    total, passed = len(run_all), sum(r.outcome == "passed" for r in run_all)
    earlier = sum(r.name in passed_before for r in run_all)
    rows.append(["all", str(total), str(earlier) if before else "", str(passed)])
    reasons = Counter(r.reason.partition(":")[0] for r in found if r.outcome == "failed")
    others = [
        f"`{r.name}`: {r.reason.partition(': see below: ')[2]}" for r in found if OTHER in r.reason
    ]
    return [
        f"{date.today().isoformat()}, {document.machine()}, shared while measured: "
        f"{passed} of {total} pass ({passed / total:.0%}).",
        "",
        *document.table(["tests", "run", "passed before", "pass"], rows),
        "",
        *document.table(["tests fail", "because"], [[str(n), r] for r, n in reasons.most_common()]),
        "",
        *(f"- {one}" for one in others),
    ]


def read(file: Path | None) -> list[Result]:
    """Results that were written with --json."""
    return [] if file is None else [Result(**row) for row in json.loads(file.read_text())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--results", type=Path, help="of an earlier run, in place of running")
    parser.add_argument("--before", type=Path, help="results of an older checkout, to compare")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    resumes = asked.resume and asked.json is not None and asked.json.exists()
    done = read(asked.json) if resumes else []
    found = read(asked.results) or run(asked.tree.resolve(), asked.only, asked.json, done)
    sys.stdout.write(f"{dict(Counter(r.outcome for r in found))}\n")
    if asked.write:
        document.write("llamacpp", lines(found, read(asked.before)), PAGE)


if __name__ == "__main__":
    main()
