"""Packages of npm's registry that only tests use: installed once, into build/."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

KEPT = Path(__file__).parents[1] / "build" / "node"  # what npm has installed, for the next run


def installed(package: str) -> Path:
    """The folder of `package`, such as "openai@6.49.0". Skips the test, and says why, where it
    cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not here (Debian: apt-get install nodejs npm)")
    name, _, wanted = package.rpartition("@")
    folder = KEPT / name / "node_modules" / name
    described = folder / "package.json"
    if not described.exists() or json.loads(described.read_text())["version"] != wanted:
        (KEPT / name).mkdir(parents=True, exist_ok=True)
        flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(KEPT / name)]
        command = ["npm", "install", *flags, package]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        if done.returncode != 0:
            pytest.skip(f"npm cannot install {package}: {done.stderr.strip()[-200:]}")
    return folder
