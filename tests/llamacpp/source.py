"""The source of llama.cpp as the package `llama-cpp-python` carries it, through pip.

`RBEE_PIP_ARGS` adds options, as for every download; `RBEE_LLAMACPP_SDIST` names a file that is
there already.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

from rbee_worker.checkpoint.cache import cache_root, exclusive, silent

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"  # as in the Makefile, for the benchmarks
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
INSIDE = "vendor/llama.cpp"
# What the converter consists of.
PARTS = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/")


class Unavailable(Exception):
    """The package cannot be had here; the text says why."""


def converter_source(into: Path) -> Path:
    """A directory with the converter, unpacked below `into`. Raises Unavailable."""
    return unpacked(into, PARTS)


def unpacked(into: Path, parts: tuple[str, ...]) -> Path:
    """The files of llama.cpp whose paths begin like one of `parts`, below `into`. Raises
    Unavailable."""
    sdist = Path(given) if (given := os.environ.get("RBEE_LLAMACPP_SDIST")) else _downloaded()
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SHA256:
        raise Unavailable(f"{sdist.name} has SHA-256 {found}, not {SHA256}")
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            inside = member.name.partition(f"/{INSIDE}/")[2]
            if inside.startswith(parts) and member.isfile():
                data = archive.extractfile(member)
                assert data is not None
                target = into / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data.read())
    return into


def _downloaded() -> Path:
    """The source distribution in the cache of models, fetched once."""
    folder = cache_root() / "pypi" / PACKAGE / VERSION
    with exclusive(cache_root(), PACKAGE, silent):
        there = sorted(folder.glob("*.tar.gz"))
        if not there:
            folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"]
            command += ["--disable-pip-version-check", "--no-binary", PACKAGE]
            command += ["--dest", str(folder), *shlex.split(os.environ.get("RBEE_PIP_ARGS", ""))]
            done = subprocess.run(
                [*command, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False
            )
            there = sorted(folder.glob("*.tar.gz"))
            if done.returncode or not there:
                last = [x for x in done.stderr.splitlines() if x.strip()][-1:] or ["no file"]
                raise Unavailable(f"pip cannot fetch {PACKAGE}=={VERSION}: {last[0][:300]}")
    return there[0]
