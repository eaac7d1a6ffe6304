"""Wheels made on the spot, and a pip that only copies them."""

import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rbee_worker.errors import BadReference


def make_wheel(folder: Path, package: str, version: str, members: dict[str, bytes]) -> Path:
    """A wheel that pip accepts."""
    stem = f"{package.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    path = folder / f"{stem}-py3-none-any.whl"
    tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in members.items():
            wheel.writestr(name, data)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        )
        wheel.writestr(f"{info}/WHEEL", tag)
        wheel.writestr(f"{info}/RECORD", "")
    return path


@dataclass
class CopyingPip:
    """Stands for pip: takes wheels from a directory, leaves those that are there already alone."""

    index: Path
    fetched: list[str] = field(default_factory=list)
    before: Callable[[str], None] = lambda wanted: None

    def __call__(self, arguments: Sequence[str], report: Callable[[int, int], None]) -> None:
        dest, wanted = Path(arguments[arguments.index("--dest") + 1]), arguments[-1]
        package, _, version = wanted.partition("==")
        self.before(wanted)
        found = sorted(self.index.glob(f"{package.replace('-', '_')}-{version or '*'}-*.whl"))
        if not found:
            raise BadReference(f"pypi:{wanted}: pip cannot fetch it.")
        wheel = found[-1]
        if not (dest / wheel.name).exists():
            self.fetched.append(wanted)
            report(1, 2)
            shutil.copy(wheel, dest)
            report(2, 2)
