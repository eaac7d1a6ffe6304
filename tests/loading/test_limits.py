"""Limits of control groups and of the process, as the memory plan meets them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rbee_worker.cgroups import cpu_quota, memory_left
from rbee_worker.machine import available_memory, killed_for_memory

MB = 1_000_000


def put(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        head, _, rest = name.partition("_")
        (folder / f"{head}.{rest}").write_text(f"{value}\n")


def member(proc: Path, *rows: str) -> None:
    (proc / "self").mkdir(parents=True, exist_ok=True)
    (proc / "self" / "cgroup").write_text("".join(f"{row}\n" for row in rows))


def test_version_2_asks_the_process_own_group_and_all_around_it(tmp_path: Path) -> None:
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    member(proc, "0::/slice/unit")
    assert memory_left(root, proc) is None
    put(root / "slice", memory_max=900 * MB, memory_current=100 * MB, cpu_max="400000 100000")
    assert memory_left(root, proc) == 800 * MB
    assert cpu_quota(root, proc) == 4
    put(root / "slice" / "unit", memory_max=500 * MB, memory_current=100 * MB, cpu_max="max 100000")
    assert memory_left(root, proc) == 400 * MB
    assert cpu_quota(root, proc) == 4
    put(root / "slice" / "unit", memory_max="max")
    assert memory_left(root, proc) == 800 * MB


def test_version_1_limits_too(tmp_path: Path) -> None:
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    member(proc, "5:cpu,cpuacct:/jobs", "4:memory:/jobs/mine", "0::/")
    mine = root / "memory" / "jobs" / "mine"
    none = 9223372036854771712  # what the kernel writes where there is no limit
    put(mine, memory_limit_in_bytes=none, memory_usage_in_bytes=MB)
    put(root / "memory" / "jobs", memory_limit_in_bytes=70 * MB, memory_usage_in_bytes=50 * MB)
    put(root / "memory" / "jobs", memory_stat=f"inactive_file 1\ntotal_inactive_file {5 * MB}")
    assert memory_left(root, proc) == 25 * MB
    put(mine, memory_limit_in_bytes=3 * MB)
    assert memory_left(root, proc) == 2 * MB
    put(root / "cpu" / "jobs", cpu_cfs_quota_us=250000, cpu_cfs_period_us=100000)
    assert cpu_quota(root, proc) == 2
    put(root / "cpu" / "jobs", cpu_cfs_quota_us=-1)
    assert cpu_quota(root, proc) is None


def test_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    """Version 1 without a namespace: the path is the host's, the files are the container's own."""
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    member(proc, "4:memory:/docker/0123abcd")
    put(root / "memory", memory_limit_in_bytes=64 * MB, memory_usage_in_bytes=MB)
    assert memory_left(root, proc) == 63 * MB
    member(proc, "4:memory:/../../escaped")
    assert memory_left(root, proc) == 63 * MB


LIMITED = """
import json, resource
from rbee_worker.machine import available_memory
resource.setrlimit(resource.{which}, (1 << 30, 1 << 30))
before = available_memory()
held = bytearray(100_000_000)
print(json.dumps([before, before - available_memory()]))
"""


@pytest.mark.parametrize("which", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_the_limits_of_the_process_itself(which: str) -> None:
    """A process that may have 1 GiB plans with what is left of it."""
    if resource.getrlimit(getattr(resource, which))[1] != resource.RLIM_INFINITY:
        pytest.skip("this process is limited itself")
    script = LIMITED.format(which=which)
    made = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ
    )
    before, taken = json.loads(made.stdout)
    assert 0 < before < 1 << 30
    assert abs(taken - 100_000_000) < 1_000_000


def test_what_the_system_has_killed_for_memory(tmp_path: Path) -> None:
    assert killed_for_memory(tmp_path) == 0
    (tmp_path / "vmstat").write_text("nr_free_pages 12\noom_kill 7\n")
    assert killed_for_memory(tmp_path) == 7
    assert available_memory() > 0
