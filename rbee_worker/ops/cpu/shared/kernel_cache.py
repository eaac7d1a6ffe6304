"""Compiled kernels on disk: found by the content of their sources, the processor and versions.

Object files live in `<cache>/kernels/<processor>/<name>-<key>.o` with their argument structs in
`.json`. What is missing is compiled by child processes (`compile.py`), one process at a time.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

from rbee_worker.errors import ModelError
from rbee_worker.ops.cpu.shared.isa import Isa

PACKAGE = "rbee_worker.ops.cpu"
_ROOT = Path(__file__).parents[1]
TEMPORARY = ".part"  # ends the name of a file that is being written
RECORD = 128  # bytes of a kernel's name, filled up with spaces, on the way to `compile.py`
_FEW = 4  # compiling processes where nobody says how many; each takes 130 MB
_SLOWEST = ("attend", "linear", "embed", "repack", "team", "norm")  # modules of kernels

Progress = Callable[[int, int, str], None]  # (kernels done, kernels in all, last one's name or "")


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
    for text in (*texts, version("llvmlite")):
        digest.update(text.encode() + b"\0")
    return root / "kernels" / f"{isa.name}-{digest.hexdigest()[:16]}"


def kernel_module(name: str) -> str:
    """The module of this package that kernel `name`, "module.variant", is built by.

    Raises ModelError where there is none.
    """
    module = _kernel_modules().get(name.partition(".")[0])
    if module is None:
        raise ModelError(
            f"there is no CPU kernel {name}.", fix="report it: a backend asked for it by mistake."
        )
    return module


@functools.cache
def _kernel_modules() -> dict[str, str]:
    """Modules in the folders of `kernels/`, by the last part of their names."""
    found = sorted(_path("kernels").with_suffix("").rglob("[a-z]*.py"))
    modules = {p.stem: ".".join(p.relative_to(_ROOT).with_suffix("").parts) for p in found}
    assert len(modules) == len(found), "two kernel modules have one name"
    return modules


@functools.cache
def stem(name: str) -> str:
    """File name, without ending, of kernel `name`: it changes with any source it is made from."""
    digest = hashlib.sha256()
    for source in sorted(_sources(kernel_module(name)) | _sources("compiler.compile")):
        digest.update(source.encode() + b"\0" + _content(source))
    return f"{name}-{digest.hexdigest()[:16]}"


@functools.cache
def _content(module: str) -> bytes:
    return _path(module).read_bytes()


@functools.cache
def _sources(module: str) -> frozenset[str]:
    """`module` and the modules of this package that it imports, directly or not."""
    found, todo = set[str](), [module]
    while todo:
        name = todo.pop()
        if name in found or not _path(name).exists():
            continue
        found.add(name)
        todo += _imports(name)
    return frozenset(found)


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
    """Names that `module` imports from this package; some are functions, not modules."""
    found = []
    for node in ast.walk(ast.parse(_content(module))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = node.module or ""
            if node.level:  # relative
                above = f"{PACKAGE}.{module}".rsplit(".", node.level)[0]
                parent = f"{above}.{parent}".rstrip(".")
            found += [parent, *(f"{parent}.{alias.name}" for alias in node.names)]
    inside = f"{PACKAGE}."
    return tuple(name.removeprefix(inside) for name in found if name.startswith(inside))


def _path(module: str) -> Path:
    return _ROOT / (module.replace(".", "/") + ".py")


def ensure(
    names: Iterable[str], isa: Isa, *, cache_dir: str = "", progress: Progress | None = None
) -> list[Compiled]:
    """The named kernels compiled for `isa`, from the cache or freshly. Raises ModelError."""
    names, where = list(names), folder(isa, cache_dir)
    compile_missing(names, isa, cache_dir=cache_dir, progress=progress)
    return [_read(n, where / stem(n)) for n in names]


def compile_missing(
    names: Iterable[str],
    isa: Isa,
    *,
    cache_dir: str = "",
    progress: Progress | None = None,
    jobs: int = 0,
) -> list[str]:
    """Compile what the cache lacks in `jobs` processes (0: a few); returns its names.

    A second process that wants kernels while one compiles waits for it, and then compiles what is
    still missing. Raises ModelError.
    """
    where = folder(isa, cache_dir)
    wanted = {n: stem(n) for n in names}
    if not _missing(wanted, where):
        return []
    told = progress or _nobody

    def wait() -> None:
        told(len(wanted) - len(_missing(wanted, where)), len(wanted), "")
        time.sleep(0.1)

    with _lock(where, wait):
        missing = sorted(_missing(wanted, where), key=_cost)
        for left in where.glob(f"*{TEMPORARY}"):  # by a process that was killed
            left.unlink(missing_ok=True)
        if missing:
            jobs = min(jobs or min(_FEW, len(os.sched_getaffinity(0))), len(missing))
            _compile(missing, where, isa, told, jobs)
    return missing


def are_kept(names: Iterable[str], isa: Isa, *, cache_dir: str = "") -> bool:
    """Is every kernel of `names` in the cache?"""
    return not _missing({n: stem(n) for n in names}, folder(isa, cache_dir))


def remember(asker: str, names: Iterable[str], isa: Isa, *, cache_dir: str = "") -> None:
    """Note beside the kernels which of them `asker` needs. A hint: may fail, may be outdated."""
    path = _needs(asker, isa, cache_dir)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    with suppress(OSError):
        temporary.write_text(json.dumps(sorted(names)))
        temporary.replace(path)


def recall(asker: str, isa: Isa, *, cache_dir: str = "") -> list[str]:
    """What was noted for `asker`; nothing where nothing was."""
    with suppress(OSError, ValueError):
        names = json.loads(_needs(asker, isa, cache_dir).read_text())
        if isinstance(names, list) and all(isinstance(n, str) for n in names):
            return names
    return []


def _needs(asker: str, isa: Isa, cache_dir: str) -> Path:
    digest = hashlib.sha256(asker.encode()).hexdigest()
    return folder(isa, cache_dir) / f"needs-{digest[:16]}.json"


def _nobody(done: int, total: int, name: str) -> None:
    """Progress that nobody listens to."""


def _missing(wanted: dict[str, str], where: Path) -> list[str]:
    return [n for n, s in wanted.items() if not (where / f"{s}.o").exists()]


def _cost(name: str) -> int:
    """Sorts what takes longest to compile first, so that no process is left with it alone."""
    module = name.partition(".")[0]
    return _SLOWEST.index(module) if module in _SLOWEST else len(_SLOWEST)


@contextmanager
def _lock(where: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Only one process compiles into a folder; a lock ends with its holder, however that dies.

    wait: called over and over while another one has it. Makes the folder. Raises ModelError where
    it cannot be written.
    """
    try:
        where.mkdir(parents=True, exist_ok=True)
        file = (where / "lock").open("w")
    except OSError as error:
        raise ModelError(
            f"compiled CPU kernels cannot be kept in {where}: {error.strerror}.",
            fix="make it writable, choose another --cache-dir, or run rbee-worker warmup first.",
        ) from None
    with file:
        while not _locked(file.fileno()):
            wait()
        yield


def _locked(file: int) -> bool:
    import fcntl  # Linux has it; this module can be imported anywhere

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: files still appear whole
        return True
    return True


def _read(name: str, path: Path) -> Compiled:
    fields = json.loads(path.with_name(path.name + ".json").read_bytes())
    code = path.with_name(path.name + ".o").read_bytes()
    return Compiled(name, code, tuple((field, kind) for field, kind in fields))


def _compile(names: Sequence[str], where: Path, isa: Isa, told: Progress, jobs: int) -> None:
    """Have `jobs` processes take the names in turn, and follow them."""
    told(0, len(names), "")
    with tempfile.TemporaryFile() as complaints:
        with _child(where, isa, jobs, complaints) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            with suppress(BrokenPipeError), child.stdin:
                for name in names:
                    child.stdin.write(name.ljust(RECORD).encode())
            with child.stdout:  # closed early, if `told` raises, it stops the processes
                for done, line in enumerate(child.stdout, 1):
                    told(done, len(names), line.decode().strip())
        if child.returncode == 0:
            return
        complaints.seek(0)
        last = complaints.read().decode().strip().splitlines()[-1:]
    raise ModelError(
        f"compiling CPU kernels for {isa.name} failed: {''.join(last) or child.returncode}",
        fix="report it with the output of RBEE_CPU_ISA=portable, which may run meanwhile.",
    )


def _child(where: Path, isa: Isa, jobs: int, complaints: IO[bytes]) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[4])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    return subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", f"{PACKAGE}.compiler.compile"),
            *(str(where), isa.cpu, isa.features, str(jobs)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        # numpy's threads would be started for nothing, and threads make forking unsafe
        env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
    )
