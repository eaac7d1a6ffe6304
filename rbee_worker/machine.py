"""What this process may use of the machine: memory and cores, container limits included; which
processor it has; the user's cache directory; and which resource an error says is short."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from rbee_worker.cgroups import PROC, ROOT, cpu_quota, memory_left, read_text

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


def available_memory(proc: Path = PROC, cgroup: Path = ROOT) -> int:
    """Bytes that can still be allocated without swapping, within the limits of the container and of
    this process."""
    known = (_meminfo(proc), memory_left(cgroup, proc), *_limits_left(proc))
    found = [n for n in known if n is not None]
    if found:
        return max(0, min(found))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def allowed_cores(cpus: Path = _CPUS, cgroup: Path = ROOT, proc: Path = PROC) -> int:
    """Physical cores that this process may run on, within the container's quota; at least 1."""
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not mine:
        return max(1, (os.cpu_count() or 2) // 2)
    cores = {_siblings(cpus, cpu) for cpu in mine}
    quota = cpu_quota(cgroup, proc)
    return max(1, len(cores) if quota is None else min(len(cores), quota))


def processor(proc: Path = Path("/proc")) -> str:
    """What kind of processor this is, as precisely as the system says; "" where it does not."""
    lines: dict[str, str] = {}
    for line in read_text(proc / "cpuinfo").splitlines():
        name, _, value = line.partition(":")
        lines.setdefault(name.strip(), value.strip())  # of the first core
    return ", ".join(lines[name] for name in _PROCESSOR if lines.get(name))


def shortage(error: BaseException | None) -> tuple[str, str] | None:
    """What the machine gives this process too little of, or does not let it run, and the fix, where
    that is why `error` was raised."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        told = str(error)
        if number in (errno.EMFILE, errno.ENFILE):
            return "no more files may be open.", "allow more of them (ulimit -n)."
        if isinstance(error, OSError) and error.filename == sys.executable:
            why = f"{sys.executable} cannot be run: {error.strerror}."
            return why, "let this user run it, and look into the folders it is in."
        if number == errno.EAGAIN or "can't start new thread" in told:
            fix = "allow more of them (ulimit -u, the container's limit), or free some memory."
            return "no more processes or threads may be started.", fix
        # the last is what the dynamic linker says of a library
        gone = isinstance(error, MemoryError) or "failed to map segment" in told
        if gone or number == errno.ENOMEM:
            fix = "free some, raise its limit (ulimit -v, the container's), or use a smaller model."
            return "there is not enough memory to begin.", fix
        error = error.__cause__ or error.__context__
    return None


def killed_for_memory(proc: Path = PROC) -> int:
    """How many processes of this machine the system has killed because memory ran out."""
    for line in read_text(proc / "vmstat").splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def is_stopped(pid: int, proc: Path = PROC) -> bool:
    """Whether somebody has stopped a process (SIGSTOP, a debugger)."""
    return read_text(proc / str(pid) / "stat").rpartition(")")[2].split()[:1] in (["T"], ["t"])


def _meminfo(proc: Path) -> int | None:
    for line in read_text(proc / "meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def _limits_left(proc: Path) -> list[int]:
    """Bytes of address space and of data that this process's own limits (ulimit -v, -d) leave."""
    try:
        import resource
    except ImportError:  # not every system has such limits
        return []
    status = dict(line.partition(":")[::2] for line in read_text(proc / "self/status").splitlines())
    left = []
    for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most, known = resource.getrlimit(limit)[0], status.get(used, "").split()
        if most != resource.RLIM_INFINITY and known:
            left.append(most - int(known[0]) * 1024)
    return left


def _siblings(cpus: Path, cpu: int) -> str:
    told = read_text(cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").strip()
    return told or str(cpu)
