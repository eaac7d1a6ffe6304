"""Processes that live as if some packages were not installed, and note who asked for them.

`sitecustomize` is imported by every Python process at its start, children of children included,
unless one is started with -I or -E.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOOK = """
import importlib.util, json, os, sys
from importlib.abc import MetaPathFinder

ABSENT, LOG = os.environ["ABSENT_PACKAGES"].split(","), os.environ["ABSENT_LOG"]

def is_absent(name):
    return name.partition(".")[0] in ABSENT

def note(imported):
    with open(LOG, "a") as file:
        file.write(json.dumps({"command": sys.orig_argv, "imported": imported}) + "\\n")

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if is_absent(name):
            note(name)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

found = importlib.util.find_spec  # asking whether there is such a package is no import
importlib.util.find_spec = lambda name, package=None: (
    None if is_absent(name) else found(name, package)
)
sys.meta_path.insert(0, Absent())
note("")
"""


@dataclass(frozen=True)
class Absence:
    """environ: for processes that are to live so."""

    environ: Mapping[str, str]
    log: Path

    def _lines(self) -> list[dict[str, str | list[str]]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def processes(self) -> list[str]:
        """The command lines of all of them."""
        return [" ".join(line["command"]) for line in self._lines() if not line["imported"]]

    def imported(self) -> list[tuple[str, str]]:
        """What they tried to import of the absent packages: (command line, module)."""
        return [
            (" ".join(line["command"]), str(line["imported"]))
            for line in self._lines()
            if line["imported"]
        ]


def without(packages: Sequence[str], folder: Path) -> Absence:
    """An environment without `packages`; `folder` is where its hook and its notes are kept."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK)
    log = folder / "log"
    log.touch()
    root = Path(__file__).parents[1]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RBEE_")}
    environ["PYTHONPATH"] = os.pathsep.join((str(folder), str(root)))
    return Absence({**environ, "ABSENT_PACKAGES": ",".join(packages), "ABSENT_LOG": str(log)}, log)
