"""Compiled kernels on disk: found by the content of their sources, the processor and versions.

Object files live in `<cache>/kernels/<processor>/<name>-<key>.o` with their argument structs in
`.json`. What is missing is compiled by child processes (`compile.py`); nothing here imports numba.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rbee_worker.errors import ModelError
from rbee_worker.ops.cpu.isa import Isa

PACKAGE = "rbee_worker.ops.cpu"

Progress = Callable[[int, int, str], None]  # (kernels done, kernels in all, last one's name)


@dataclass(frozen=True)
class Compiled:
    """Object code, and the fields of its argument struct: (name, "ptr" | "int" | "float")."""

    name: str
    code: bytes
    fields: tuple[tuple[str, str], ...]


def symbol(name: str) -> str:
    """The C function's name in the object file of kernel `name`."""
    return "rbee_" + re.sub(r"\W", "_", name)


def folder(isa: Isa, cache_dir: str = "") -> Path:
    """Where kernels for `isa` belong. `cache_dir` "" is the user's cache directory."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(cache_dir) if cache_dir else Path(home) / "rbee-worker"
    digest = hashlib.sha256()
    texts = [isa.cpu, isa.features, sys.platform, sys.version]
    for text in (*texts, version("numba"), version("llvmlite")):
        digest.update(text.encode() + b"\0")
    return root / "kernels" / f"{isa.name}-{digest.hexdigest()[:16]}"


def stem(name: str) -> str:
    """File name, without ending, of kernel `name`: it changes with any source it is made from."""
    module = "kernels." + name.partition(".")[0]
    digest = hashlib.sha256()
    for source in sorted(_sources(module) | _sources("compile")):
        digest.update(source.encode() + b"\0" + _path(source).read_bytes())
    return f"{name}-{digest.hexdigest()[:16]}"


@functools.cache
def _sources(module: str) -> frozenset[str]:
    """`module` and the modules of this package that it imports, directly or not."""
    found, todo = set[str](), [module]
    while todo:
        name = todo.pop()
        if name in found or not _path(name).exists():
            continue
        found.add(name)
        text = _path(name).read_text()
        todo += re.findall(rf"^\s*from {PACKAGE}\.([\w.]+) import", text, re.M)
        for names in re.findall(rf"^\s*from {PACKAGE} import ([\w ,]+)$", text, re.M):
            todo += [n.split()[0] for n in names.split(",")]
    return frozenset(found)


def _path(module: str) -> Path:
    return Path(__file__).parent / (module.replace(".", "/") + ".py")


def ensure(
    names: Iterable[str],
    isa: Isa,
    *,
    cache_dir: str = "",
    progress: Progress | None = None,
    jobs: int = 2,
) -> list[Compiled]:
    """The named kernels compiled for `isa`, from the cache or freshly. Raises ModelError."""
    where = folder(isa, cache_dir)
    wanted = {n: stem(n) for n in names}
    missing = [n for n in wanted if not (where / f"{wanted[n]}.o").exists()]
    if missing:
        where.mkdir(parents=True, exist_ok=True)
        _compile(missing, where, isa, progress, max(1, min(jobs, len(missing) // 2)))
    return [_read(n, where / s) for n, s in wanted.items()]


def _read(name: str, path: Path) -> Compiled:
    fields = json.loads(path.with_name(path.name + ".json").read_bytes())
    code = path.with_name(path.name + ".o").read_bytes()
    return Compiled(name, code, tuple((field, kind) for field, kind in fields))


def _compile(
    names: Sequence[str], where: Path, isa: Isa, progress: Progress | None, jobs: int
) -> None:
    """Share the names among `jobs` children and follow their output."""
    done: list[str] = []
    lock = threading.Lock()
    children = [_child(names[n::jobs], where, isa) for n in range(jobs)]

    def follow(child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            with lock:
                done.append(line.strip())
                if progress is not None:
                    progress(len(done), len(names), done[-1])

    threads = [threading.Thread(target=follow, args=(c,)) for c in children]
    for thread in threads:
        thread.start()
    errors = []
    for child, thread in zip(children, threads, strict=True):
        thread.join()
        assert child.stderr is not None
        text = child.stderr.read()
        child.stdout and child.stdout.close()
        child.stderr.close()
        if child.wait() != 0:
            errors.append(text.strip() or f"exit status {child.returncode}")
    if errors:
        last = errors[0].splitlines()[-1]
        raise ModelError(
            f"compiling CPU kernels for {isa.name} failed: {last}",
            fix="report it with the output of RBEE_CPU_ISA=portable, which may run meanwhile.",
        )


def _child(names: Sequence[str], where: Path, isa: Isa) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "rbee_worker.ops.cpu.compile"),
            *(str(where), isa.cpu, isa.features, *names),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
