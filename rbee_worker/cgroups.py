"""The limits of the control groups that this process is in, version 1 and 2, its ancestors' too.

A container sees its own group as the root of the file system, or the host's whole tree, or (version
1 without a namespace) the host's path for itself but only its own group's files. So every group
whose files are there is asked, from the process's own up to the root.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc")
_NO_LIMIT = 1 << 60  # bytes; version 1 writes a number for "none"


def memory_left(root: Path = ROOT, proc: Path = PROC) -> int | None:
    """Bytes that can still be taken under the narrowest limit; None if there is none. File pages
    that can be dropped count as free."""
    left = [_left_v2(group) for group in _groups(root, "", proc)]
    left += [_left_v1(group) for group in _groups(root / "memory", "memory", proc)]
    return min((n for n in left if n is not None), default=None)


def cpu_quota(root: Path = ROOT, proc: Path = PROC) -> int | None:
    """The number of whole cores that the narrowest limit grants time for; None if there is none."""
    quotas = [read_text(group / "cpu.max").split() for group in _groups(root, "", proc)]
    for group in _groups(root / "cpu", "cpu", proc):
        quotas.append([read_text(group / f"cpu.cfs_{of}_us").strip() for of in ("quota", "period")])
    granted = [int(q[0]) // int(q[1]) for q in quotas if len(q) == 2 and q[0].isdigit()]
    return max(1, min(granted)) if granted else None


def read_text(path: Path) -> str:
    """What a file says; "" if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _groups(mount: Path, controller: str, proc: Path) -> Iterator[Path]:
    """The folders of this process's group and all groups around it. controller: "" is version 2."""
    rows = (row.split(":", 2) for row in read_text(proc / "self" / "cgroup").splitlines())
    mine = [row[2] for row in rows if len(row) == 3 and controller in row[1].split(",")]
    group = mount / mine[0].lstrip("/") if mine and ".." not in mine[0] else mount
    while group != mount:
        yield group
        group = group.parent
    yield mount


def _left_v2(group: Path) -> int | None:
    limits = [read_text(group / name).strip() for name in ("memory.max", "memory.high")]
    return _left(group, limits, "memory.current", "inactive_file")


def _left_v1(group: Path) -> int | None:
    limits = [read_text(group / "memory.limit_in_bytes").strip()]
    return _left(group, limits, "memory.usage_in_bytes", "total_inactive_file")


def _left(group: Path, limits: list[str], usage: str, droppable: str) -> int | None:
    known = [int(n) for n in limits if n.isdigit() and int(n) < _NO_LIMIT]
    used = read_text(group / usage).strip()
    if not known or not used.isdigit():
        return None
    rows = (row.split() for row in read_text(group / "memory.stat").splitlines())
    stat = {row[0]: row[1] for row in rows if len(row) == 2}
    return min(known) - int(used) + int(stat.get(droppable, 0))
