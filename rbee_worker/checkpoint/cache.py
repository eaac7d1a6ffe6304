"""The directory of downloaded models. Each model has a lock, free space is checked before a
download, and a file appears under its name only when it is complete."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rbee_worker.errors import ModelError
from rbee_worker.machine import user_cache

Progress = Callable[[str, int, int], None]  # (what, bytes done, bytes in total; 0 = unknown)

SPARE_BYTES = 64 << 20  # left free on the disk
COPY_BYTES = 1 << 20
POLL_SECONDS = 0.2


def silent(what: str, done: int, total: int) -> None:
    """The progress callback for callers that give none."""


def cache_root(cache_dir: str = "") -> Path:
    """`cache_dir`, or rbee-worker/models in the user's cache directory; it need not exist."""
    if cache_dir:
        return Path(os.path.expanduser(cache_dir)).absolute()
    return user_cache() / "rbee-worker" / "models"


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turns an error of a full or read-only disk into a ModelError of one line."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"{where}: cannot be written ({error.strerror or error}).",
            fix="free some space, or choose another model cache with --cache-dir",
        ) from None


@contextmanager
def exclusive(root: Path, name: str, progress: Progress) -> Iterator[None]:
    """Hold the lock `name` of a cache. Another process that wants it waits until it is released."""
    locks = root / "locks"
    with disk_errors(locks):
        locks.mkdir(parents=True, exist_ok=True)
        lock = os.open(locks / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress("waiting for another process that is fetching this model", 0, 0)
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(lock)  # releases the lock


def need_space(directory: Path, nbytes: int, what: str) -> None:
    """Raise ModelError unless `nbytes` more fit on the disk of `directory`."""
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if free < nbytes + SPARE_BYTES:
        raise ModelError(
            f"{what} needs {_mib(nbytes + SPARE_BYTES)} on the disk of {directory}, "
            f"{_mib(free)} are free.",
            fix="free some space, or choose another model cache with --cache-dir",
        )


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A path to write to. It becomes `target` if the block ends without an error, and is deleted
    otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".partial-", dir=target.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def sha256_of(path: Path, progress: Progress, name: str) -> str:
    """The file's SHA-256 in hexadecimal. name: what the progress report calls the file."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(COPY_BYTES):
            digest.update(block)
            done += len(block)
            progress(f"checking {name}", done, total)
    return digest.hexdigest()


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):.0f} MiB"
