"""Results into docs/performance.md: each benchmark owns what stands between its two markers."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rbee_worker.machine import allowed_cores

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
PACKAGES = ("torch", "llvmlite", "numpy")


def write(block: str, lines: Iterable[str], page: Path = PAGE) -> None:
    """Put `lines` between the markers of `block`. Raises SystemExit where the page has none."""
    opening, closing = f"<!-- {block} -->", f"<!-- /{block} -->"
    text = page.read_text()
    if text.count(opening) != 1 or text.count(closing) != 1:
        raise SystemExit(f"{page}: needs {opening} and {closing}, once each.")
    before, rest = text.split(opening)
    _, after = rest.split(closing)
    inside = "\n".join(lines).strip("\n")
    page.write_text(f"{before}{opening}\n{inside}\n{closing}{after}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def conditions(*, threads: int, peer: str = "") -> str:
    """When, on what and with what: one line for a person."""
    found = [f"{name} {_version(name)}" for name in PACKAGES]
    if peer:
        found.append(peer)
    return f"{date.today().isoformat()}, {machine()}, {threads} threads; {', '.join(found)}."


def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        match = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)
        name = match[1] if match else name
    except OSError:
        pass
    return f"{name}, {allowed_cores()} cores"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
