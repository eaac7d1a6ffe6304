"""What this process may use of the machine: memory and cores, container limits included; which
processor it has; the user's cache directory; and which resource an error says is short."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_CPUS = Path("/sys/devices/system/cpu")
_PROCESSOR = (  # lines of /proc/cpuinfo that tell processors apart, on x86 and on Arm
    *("model name", "vendor_id", "cpu family", "model", "stepping", "cache size"),
    *("CPU implementer", "CPU variant", "CPU part", "CPU revision"),
)
_NO_HOME = "/nonexistent"  # what Debian calls the home of users that have none


def user_cache() -> Path:
    """The user's cache directory: XDG_CACHE_HOME, or .cache in the home directory.

    Whoever has no home directory gets a path that does not exist and often cannot be made.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # the XDG specification ignores relative paths
        return Path(given)
    home = os.path.expanduser("~")
    return Path(home if os.path.isabs(home) else _NO_HOME) / ".cache"


def available_memory(proc: Path = Path("/proc"), cgroup: Path = _CGROUP) -> int:
    """Bytes that can still be allocated without swapping, within the container's limit."""
    found = [n for n in (_meminfo(proc), _cgroup_left(cgroup)) if n is not None]
    if found:
        return max(0, min(found))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def allowed_cores(cpus: Path = _CPUS, cgroup: Path = _CGROUP) -> int:
    """Physical cores that this process may run on, within the container's quota; at least 1."""
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not mine:
        return max(1, (os.cpu_count() or 2) // 2)
    cores = {_siblings(cpus, cpu) for cpu in mine}
    quota = _cpu_quota(cgroup)
    return max(1, len(cores) if quota is None else min(len(cores), quota))


def processor(proc: Path = Path("/proc")) -> str:
    """What kind of processor this is, as precisely as the system says; "" where it does not."""
    lines: dict[str, str] = {}
    for line in _read(proc / "cpuinfo").splitlines():
        name, _, value = line.partition(":")
        lines.setdefault(name.strip(), value.strip())  # of the first core
    return ", ".join(lines[name] for name in _PROCESSOR if lines.get(name))


def shortage(error: BaseException | None) -> tuple[str, str] | None:
    """What the machine gives this process too little of, and the fix, where that is why `error`
    was raised."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        text = str(error)
        if number in (errno.EMFILE, errno.ENFILE):
            return "no more files may be open.", "allow more of them (ulimit -n)."
        if number == errno.EAGAIN or "can't start new thread" in text:
            fix = "allow more of them (ulimit -u, the container's limit), or free some memory."
            return "no more processes or threads may be started.", fix
        # the last is what the dynamic linker says of a library
        gone = isinstance(error, MemoryError) or "failed to map segment" in text
        if gone or number == errno.ENOMEM:
            fix = "free some, raise its limit (ulimit -v, the container's), or use a smaller model."
            return "there is not enough memory to begin.", fix
        error = error.__cause__ or error.__context__
    return None


def _meminfo(proc: Path) -> int | None:
    for line in _read(proc / "meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def _cgroup_left(cgroup: Path) -> int | None:
    """Bytes left under a cgroup v2 limit; file pages that can be dropped count as free."""
    limit, used = _read(cgroup / "memory.max").strip(), _read(cgroup / "memory.current").strip()
    if not limit.isdigit() or not used.isdigit():
        return None
    stat = dict(line.split() for line in _read(cgroup / "memory.stat").splitlines() if " " in line)
    return int(limit) - int(used) + int(stat.get("inactive_file", 0))


def _cpu_quota(cgroup: Path) -> int | None:
    """The number of whole cores that cgroup v2 grants time for; None = no limit."""
    parts = _read(cgroup / "cpu.max").split()
    if len(parts) != 2 or not parts[0].isdigit():
        return None
    return max(1, int(parts[0]) // int(parts[1]))


def _siblings(cpus: Path, cpu: int) -> str:
    text = _read(cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").strip()
    return text or str(cpu)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
