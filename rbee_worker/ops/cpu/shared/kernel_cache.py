"""Compiled kernels on disk, keyed by the content of their sources, the processor and versions.

Object files are `<cache>/kernels/<processor>/<name>-<key>.o`, with their argument structs in
`.json`. Missing kernels are compiled by child processes (`compile.py`) of one process at a time.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rbee_worker.errors import ModelError
from rbee_worker.ops.cpu.shared.isa import Isa
from rbee_worker.ops.cpu.shared.kernel_sources import PACKAGE, is_kernel, source_digest

if TYPE_CHECKING:
    import subprocess

TEMPORARY = ".part"  # ends the name of a file that is being written
RECORD = 128  # bytes of a kernel's name, padded with spaces, as `compile.py` reads it
_FEW = 4  # compiling processes at most, unless asked for more; each takes 130 MB
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
    import llvmlite  # only for its version; the reference backend runs without it

    texts = [isa.cpu, isa.features, sys.platform, sys.version]
    for text in (*texts, llvmlite.__version__):
        digest.update(text.encode() + b"\0")
    return root / "kernels" / f"{isa.name}-{digest.hexdigest()[:16]}"


@functools.cache
def stem(name: str, where: Path | None = None) -> str:
    """File name of kernel `name`, without ending. It changes with any source the kernel is made of.

    where: the folder of the file.
    """
    return f"{name}-{source_digest(name, where)}"


def ensure(
    names: Iterable[str], isa: Isa, *, cache_dir: str = "", progress: Progress | None = None
) -> list[Compiled]:
    """The named kernels for `isa`, compiled if the cache lacks them. Raises ModelError."""
    names, where = list(names), folder(isa, cache_dir)
    compile_missing(names, isa, cache_dir=cache_dir, progress=progress)
    return [_read(n, where / stem(n, where)) for n in names]


def compile_missing(
    names: Iterable[str],
    isa: Isa,
    *,
    cache_dir: str = "",
    progress: Progress | None = None,
    jobs: int = 0,
) -> list[str]:
    """Compile the kernels that the cache lacks in `jobs` processes (0: a few); return their names.

    A second process that wants kernels while one compiles waits for it, and then compiles what is
    still missing. Raises ModelError.
    """
    where = folder(isa, cache_dir)
    wanted = {n: stem(n, where) for n in names}
    if not _missing(wanted, where):
        return []
    report = progress or _no_report

    def wait() -> None:
        report(len(wanted) - len(_missing(wanted, where)), len(wanted), "")
        time.sleep(0.1)

    with _lock(where, wait):
        missing = sorted(_missing(wanted, where), key=_cost)
        for left in where.glob(f"*{TEMPORARY}"):  # left by a process that was killed
            left.unlink(missing_ok=True)
        if missing:
            jobs = min(jobs or min(_FEW, len(os.sched_getaffinity(0))), len(missing))
            _compile(missing, where, isa, report, jobs)
    return missing


def are_kept(names: Sequence[str], isa: Isa, *, cache_dir: str = "") -> bool:
    """Is every kernel of `names` in the cache? One that there no longer is (names may come of an
    outdated note) is not."""
    where = folder(isa, cache_dir)
    return all(map(is_kernel, names)) and not _missing({n: stem(n, where) for n in names}, where)


def remember(asker: str, names: Iterable[str], isa: Isa, *, cache_dir: str = "") -> None:
    """Note beside the kernels which of them `asker` needs. A hint: it may be missing or old."""
    path = _needs(asker, isa, cache_dir)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    with suppress(OSError):
        temporary.write_text(json.dumps(sorted(names)))
        temporary.replace(path)


def recall(asker: str, isa: Isa, *, cache_dir: str = "") -> list[str]:
    """The names noted for `asker`; none if nothing was noted."""
    with suppress(OSError, ValueError):
        names = json.loads(_needs(asker, isa, cache_dir).read_text())
        if isinstance(names, list) and all(isinstance(n, str) for n in names):
            return names
    return []


def _needs(asker: str, isa: Isa, cache_dir: str) -> Path:
    digest = hashlib.sha256(asker.encode()).hexdigest()
    return folder(isa, cache_dir) / f"needs-{digest[:16]}.json"


def _no_report(done: int, total: int, name: str) -> None:
    """Takes progress where the caller wants none."""


def _missing(wanted: dict[str, str], where: Path) -> list[str]:
    return [n for n, s in wanted.items() if not (where / f"{s}.o").exists()]


def _cost(name: str) -> int:
    """A sort key: the slowest kernels first, so that none of them is left for the end."""
    module = name.partition(".")[0]
    return _SLOWEST.index(module) if module in _SLOWEST else len(_SLOWEST)


@contextmanager
def _lock(where: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time compile into a folder. The lock ends when its holder dies.

    wait: called repeatedly while another process holds it. Makes the folder; raises ModelError if
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
    except OSError:  # a file system without locks; files still appear whole
        return True
    return True


def _read(name: str, path: Path) -> Compiled:
    fields = json.loads(path.with_name(path.name + ".json").read_bytes())
    code = path.with_name(path.name + ".o").read_bytes()
    return Compiled(name, code, tuple((field, kind) for field, kind in fields))


def _compile(names: Sequence[str], where: Path, isa: Isa, report: Progress, jobs: int) -> None:
    """Compile `names` in `jobs` processes, which take them in turn, and report progress."""
    report(0, len(names), "")
    import tempfile

    with tempfile.TemporaryFile() as complaints:
        with _child(where, isa, jobs, complaints) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            with suppress(BrokenPipeError), child.stdin:
                for name in names:
                    child.stdin.write(name.ljust(RECORD).encode())
            with child.stdout:  # if `report` raises, closing it stops the processes
                for done, line in enumerate(child.stdout, 1):
                    report(done, len(names), line.decode().strip())
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
    import subprocess

    return subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", f"{PACKAGE}.compiler.compile"),
            *(str(where), isa.cpu, isa.features, str(jobs)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        # numpy would start threads that nobody uses, and threads make forking unsafe
        env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
    )
