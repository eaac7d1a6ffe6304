"""Compiled kernels on disk, keyed by the content of their sources, the processor and versions.

They lie in `<cache>/kernels/<processor>` (`kernel_files.py`). Missing ones are compiled there, by
child processes (`compile.py`) of one process at a time.
Where that folder cannot be written they are compiled into a temporary one that only this user can
enter, read into memory, and the folder is removed at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rbee_worker.errors import ModelError
from rbee_worker.machine import user_cache
from rbee_worker.ops.cpu.shared.isa import Isa
from rbee_worker.ops.cpu.shared.kernel_files import (
    TEMPORARY,
    CannotKeep,
    Compiled,
    Progress,
    compile_into,
    read,
    stem,
)
from rbee_worker.ops.cpu.shared.kernel_sources import is_kernel

_TEMPORARY_ROOMS = (None, "/dev/shm")  # None: where TMPDIR says, or the system's usual place
_FEW = 4  # compiling processes at most, unless asked for more; each takes 130 MB
_SLOWEST = ("attend", "linear", "embed", "repack", "team", "norm")  # modules of kernels


@dataclass
class Unkept:
    """Kernels that could not be kept on disk, in the memory of the process that runs them.

    why: the reason in a sentence; "" while nothing had to be compiled, or it could be kept.
    """

    why: str = ""
    kernels: dict[str, Compiled] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        return (self.why,) if self.why else ()

    def compile(self, names: Sequence[str], isa: Isa, report: Progress, jobs: int) -> None:
        """Compile `names` into memory. Raises ModelError where no file can be written."""
        import tempfile

        why = ""
        for parent in _TEMPORARY_ROOMS:
            try:
                with tempfile.TemporaryDirectory(prefix="rbee-kernels-", dir=parent) as made:
                    where = Path(made)
                    compile_into(names, where, isa, report, jobs)
                    self.kernels |= {n: read(n, where / stem(n, where)) for n in names}
                    return
            except CannotKeep as error:
                why = error.why
            except OSError as error:
                why = error.strerror or str(error)
        raise ModelError(
            f"there is no room to compile CPU kernels: {why}.",
            fix="make room in the folder of temporary files (TMPDIR), or choose a --cache-dir.",
        )


def folder(isa: Isa, cache_dir: str = "") -> Path:
    """Where kernels for `isa` belong. `cache_dir` "" is the user's cache directory."""
    root = Path(os.path.expanduser(cache_dir)) if cache_dir else user_cache() / "rbee-worker"
    digest = hashlib.sha256()
    import llvmlite  # only for its version; the reference backend runs without it

    texts = [isa.cpu, isa.features, sys.platform, sys.version]
    for text in (*texts, llvmlite.__version__):
        digest.update(text.encode() + b"\0")
    return root / "kernels" / f"{isa.name}-{digest.hexdigest()[:16]}"


def ensure(
    names: Iterable[str],
    isa: Isa,
    *,
    cache_dir: str = "",
    progress: Progress | None = None,
    unkept: Unkept | None = None,
) -> list[Compiled]:
    """The named kernels for `isa`, compiled if the cache lacks them. Raises ModelError.

    unkept: as for `compile_missing`.
    """
    names, where = list(names), folder(isa, cache_dir)
    compile_missing(names, isa, cache_dir=cache_dir, progress=progress, unkept=unkept)
    held = unkept.kernels if unkept else {}
    return [held[n] if n in held else read(n, where / stem(n, where)) for n in names]


def compile_missing(
    names: Iterable[str],
    isa: Isa,
    *,
    cache_dir: str = "",
    progress: Progress | None = None,
    jobs: int = 0,
    unkept: Unkept | None = None,
) -> list[str]:
    """Compile the kernels that the cache lacks in `jobs` processes (0: a few); return their names.

    A second process that wants kernels while one compiles waits for it, and then compiles what is
    still missing. unkept: takes the kernels where the folder cannot be written; without one that
    is an error. Raises ModelError.
    """
    where = folder(isa, cache_dir)
    held = unkept.kernels if unkept else {}
    wanted = {n: stem(n, where) for n in names if n not in held}
    if not _missing(wanted, where):
        return []
    jobs = jobs or min(_FEW, len(os.sched_getaffinity(0)))
    try:
        return _compile_kept(wanted, where, isa, progress or _no_report, jobs)
    except CannotKeep as error:
        if unkept is None:
            raise
        unkept.why = (
            f"compiled CPU kernels cannot be kept in {error.where}: {error.why}. This process "
            f"compiled them for itself, as every start will. Fix: {error.fix}"
        )
        missing = sorted(_missing(wanted, where), key=_cost)
        unkept.compile(missing, isa, progress or _no_report, jobs)
        return missing


def _compile_kept(
    wanted: dict[str, str], where: Path, isa: Isa, report: Progress, jobs: int
) -> list[str]:
    """`compile_missing` into the folder `where`; wanted: file names. Raises CannotKeep."""

    def wait() -> None:
        report(len(wanted) - len(_missing(wanted, where)), len(wanted), "")
        time.sleep(0.1)

    with _lock(where, wait):
        missing = sorted(_missing(wanted, where), key=_cost)
        with suppress(OSError):
            for left in where.glob(f"*{TEMPORARY}"):  # left by a process that was killed
                left.unlink(missing_ok=True)
        if missing:
            compile_into(missing, where, isa, report, jobs)
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
    return [n for n, s in wanted.items() if not _is_whole(n, where / s)]


def _is_whole(name: str, kept: Path) -> bool:
    """Whether a kernel's two files are there and undamaged. kept: their path without ending."""
    try:
        read(name, kept)
    except (OSError, ValueError):
        return False
    return True


def _cost(name: str) -> int:
    """A sort key: the slowest kernels first, so that none of them is left for the end."""
    module = name.partition(".")[0]
    return _SLOWEST.index(module) if module in _SLOWEST else len(_SLOWEST)


@contextmanager
def _lock(where: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time compile into a folder. The lock ends when its holder dies.

    wait: called repeatedly while another process holds it. Makes the folder; raises CannotKeep if
    it cannot be written.
    """
    try:
        where.mkdir(parents=True, exist_ok=True)
        file = (where / "lock").open("w")
    except OSError as error:
        raise CannotKeep(where, error.strerror or str(error)) from None
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
