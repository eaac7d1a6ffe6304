"""Compiled kernels on disk: made once, whole or not at all, by one process at a time."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rbee_worker.errors import ModelError
from rbee_worker.ops.cpu.runtime import kernel_cache
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.shared import isa, kernel_files, kernel_sources
from tests.patience import LIMIT_S

TARGET = isa.choose()
NAMES = ["norm.rms", "each.add", "team.stop", "rope.half", "linear.q4_1", "attend.f16"]
COMPILES = f"""
import sys
from rbee_worker.ops.cpu.runtime import kernel_cache
from rbee_worker.ops.cpu.shared import isa
done = kernel_cache.compile_missing({NAMES!r}, isa.choose(), cache_dir=sys.argv[1])
print(*done, flush=True)
"""


def start(folder):
    root = str(Path(__file__).parents[3])
    return subprocess.Popen(
        [sys.executable, "-c", COMPILES, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
        start_new_session=True,
    )


def begun(tmp_path):
    """(folder, process) of one compilation after another, each when it has its first kernel."""
    for n in itertools.count():
        folder = tmp_path / str(n)
        folder.mkdir()
        process = start(folder)
        while not objects(folder):
            assert process.poll() is None, "it ended before it compiled anything"
            time.sleep(0.002)
        yield folder, process


def objects(folder):
    return sorted(p.name for p in kernel_cache.folder(TARGET, str(folder)).glob("*.o"))


def all_work(folder):
    """Every file there can be loaded: none is cut off."""
    Library(TARGET, cache_dir=str(folder)).load(NAMES)


def test_kernels_are_compiled_once(tmp_path, monkeypatch):
    told = []
    made = kernel_cache.ensure(
        NAMES, TARGET, cache_dir=str(tmp_path), progress=lambda *now: told.append(now)
    )
    assert [m.name for m in made] == NAMES
    assert [t[:2] for t in told] == [(n, len(NAMES)) for n in range(len(NAMES) + 1)]
    assert told[0][2] == ""
    assert sorted(t[2] for t in told[1:]) == sorted(NAMES)
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing is started any more
    again = kernel_cache.ensure(
        NAMES, TARGET, cache_dir=str(tmp_path), progress=lambda *_: told.clear()
    )
    assert again == made
    assert told


def test_two_processes_share_the_work(tmp_path):
    both = [start(tmp_path), start(tmp_path)]
    compiled = [p.communicate(timeout=LIMIT_S)[0].split() for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert sorted(compiled[0] + compiled[1]) == sorted(NAMES)  # none twice, none left out
    assert len(objects(tmp_path)) == len(NAMES)


def test_a_killed_compile_leaves_whole_files_only(tmp_path):
    for folder, process in begun(tmp_path):
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if len(objects(folder)) < len(NAMES):  # else it was done before it was killed
            break
    half = kernel_cache.folder(TARGET, str(folder)) / f"norm.rms-0.o.1{kernel_files.TEMPORARY}"
    half.write_bytes(b"half")
    all_work(folder)
    assert len(objects(folder)) == len(NAMES)
    assert not half.exists()


def flipped(data):
    """One bit in the middle, as a bad disk gives it back: still an object file, of other code."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def test_files_that_are_cut_or_damaged_are_made_again(tmp_path):
    names = [
        "each.add",
        "team.stop",
        "rope.half",
        "edits.undo",
        "team.work",
        "norm.rms",
        "rope.pairs",
    ]
    made = kernel_cache.ensure(names, TARGET, cache_dir=str(tmp_path))
    where = kernel_cache.folder(TARGET, str(tmp_path))
    for name, ending, damage in (
        ("each.add", "o", lambda data: b""),
        ("team.stop", "o", lambda data: data[:-1]),
        ("rope.half", "o", lambda data: bytes(len(data))),
        ("edits.undo", "json", lambda data: data[:-1]),
        ("team.work", "o", flipped),
        ("norm.rms", "json", lambda data: data.replace(b"ptr", b"int", 1)),
        ("rope.pairs", "json", lambda data: b"[]"),
    ):
        [file] = where.glob(f"{name}-*.{ending}")
        file.write_bytes(damage(file.read_bytes()))
        assert not kernel_cache.are_kept([name], TARGET, cache_dir=str(tmp_path))
    assert kernel_cache.ensure(names, TARGET, cache_dir=str(tmp_path)) == made
    assert kernel_cache.are_kept(names, TARGET, cache_dir=str(tmp_path))


def test_processes_end_with_the_one_that_wants_them(tmp_path):
    """Killed alone, their parent takes them along after what they are at."""
    for folder, process in begun(tmp_path):  # noqa: B007 - the last one is used
        process.kill()
        process.communicate()
        if process.returncode == -signal.SIGKILL:  # else it was done before it was killed
            break
    until = time.monotonic() + LIMIT_S
    while _alive(process.pid):
        assert time.monotonic() < until, "a compiling process goes on for nobody"
        time.sleep(0.05)
    all_work(folder)


def _alive(group):
    """Processes of a group that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(status)
    return found


def test_a_listener_that_gives_up_stops_it(tmp_path):
    def progress(done, total, name):
        if done == 1:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        kernel_cache.compile_missing(NAMES, TARGET, cache_dir=str(tmp_path), progress=progress)
    assert len(objects(tmp_path)) < len(NAMES)
    all_work(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"file.*Fix: make it writable"):
        kernel_cache.compile_missing(["each.add"], TARGET, cache_dir=str(tmp_path / "file"))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary files go, empty."""
    made = tmp_path / "temporary"
    made.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    return made


def unwritable(tmp_path):
    (tmp_path / "file").write_text("")
    return str(tmp_path / "file")


def occupied(tmp_path):
    """A folder that can be opened and locked, in which a file of the kernel cannot be written."""
    where = kernel_cache.folder(TARGET, str(tmp_path / "full"))
    (where / f"{kernel_files.stem('each.add', where)}.json").mkdir(parents=True)
    return str(tmp_path / "full")


@pytest.mark.parametrize(
    ("cache", "why"), [(unwritable, "Not a directory"), (occupied, "Is a directory")]
)
def test_kernels_that_cannot_be_kept_are_compiled_for_this_process(
    tmp_path, temporary, monkeypatch, cache, why
):
    """In a folder that nobody else can look into or write, which is gone when they are loaded."""
    modes = []

    def progress(*_):
        modes.extend(stat.S_IMODE(found.stat().st_mode) for found in temporary.iterdir())

    unkept = kernel_cache.Unkept()
    folder = cache(tmp_path)
    Library(TARGET, cache_dir=folder, progress=progress, unkept=unkept).load(NAMES[:3])
    assert set(modes) == {0o700}
    assert list(temporary.iterdir()) == []
    (note,) = unkept.notes
    assert note.startswith(f"compiled CPU kernels cannot be kept in {tmp_path}")
    assert f": {why}. " in note
    assert "Fix: make it writable, or choose another --cache-dir." in note
    assert "each.add" in unkept.kernels
    for name, made in unkept.kernels.items():
        assert kernel_cache.ensure([name], TARGET) == [made]  # the machine code of one that is kept
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing is compiled twice
    Library(TARGET, cache_dir=folder, unkept=unkept).load(NAMES[:3])


def test_kernels_that_are_kept_are_used_where_nothing_can_be_written(tmp_path, temporary):
    """As those of a container's image."""
    cache = tmp_path / "full"
    kernel_cache.compile_missing(["norm.rms"], TARGET, cache_dir=str(cache))
    occupied(tmp_path)
    unkept = kernel_cache.Unkept()
    made = kernel_cache.ensure(
        ["norm.rms", "each.add"], TARGET, cache_dir=str(cache), unkept=unkept
    )
    assert [m.name for m in made] == ["norm.rms", "each.add"]
    assert list(unkept.kernels) == ["each.add"]


def test_no_room_at_all_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_cache, "_TEMPORARY_ROOMS", (unwritable(tmp_path),))
    with pytest.raises(ModelError, match=r"no room to compile.*Not a directory.*TMPDIR"):
        Library(TARGET, cache_dir=unwritable(tmp_path)).load(["each.add"])


def test_a_kernel_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="there is no CPU kernel nonsense"):
        kernel_cache.compile_missing(["nonsense.x"], TARGET, cache_dir=str(tmp_path))


def test_a_variant_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="KeyError: 'nonsense'"):
        kernel_cache.compile_missing(["norm.nonsense"], TARGET, cache_dir=str(tmp_path))


def test_a_name_changes_with_any_source_it_is_made_from(monkeypatch):
    names = ("attend.f16", "each.add")
    before = {n: kernel_sources.source_digest(n) for n in names}
    edited = dict(kernel_sources.sources())
    edited["kernels.attention.softmax"] += b"# edited"
    monkeypatch.setattr(kernel_sources, "sources", lambda: edited)
    after = {n: kernel_sources.source_digest(n) for n in names}
    assert after["attend.f16"] != before["attend.f16"]
    assert after["each.add"] == before["each.add"]
    edited["compiler.emit"] += b"# edited"
    assert kernel_sources.source_digest("each.add") != before["each.add"]


def test_who_imports_whom_is_kept_and_read_again_after_any_edit(tmp_path, monkeypatch):
    fresh = kernel_sources.imports()
    read = kernel_sources.imports.__wrapped__
    assert read(tmp_path) == fresh
    (kept,) = tmp_path.iterdir()
    parse = Counting(kernel_sources.imports_of)
    monkeypatch.setattr(kernel_sources, "imports_of", parse)
    assert read(tmp_path) == fresh
    assert not parse.calls
    for n, damaged in enumerate(("half a fil", "[]", '{"kernels.norm": 5}'), 1):
        kept.write_text(damaged)
        assert read(tmp_path) == fresh
        assert parse.calls == n * len(fresh)
    texts = kernel_sources.sources()
    edited = {**texts, "kernels.norm": b"from rbee_worker.ops.cpu.shared import step\n"}
    monkeypatch.setattr(kernel_sources, "sources", lambda: edited)
    assert read(tmp_path)["kernels.norm"] == ["shared", "shared.step"]
    assert read(tmp_path / "not there")["kernels.norm"] == ["shared", "shared.step"]


class Counting:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


IMPORTS = """
from rbee_worker.ops.cpu.kernels.attention import (
    micro,
    softmax as recurrence,
)
import rbee_worker.ops.cpu.shared.step
from . import vmath
from .sampling import doubles
from rbee_worker.errors import UsageError


def build(variant):
    from rbee_worker.ops.cpu.shared.held import (HELD,
        held_as)
"""


def test_every_way_to_write_an_import_is_seen():
    """A source that is not seen could change while old machine code is served."""
    texts = {**kernel_sources.sources(), "kernels.norm": IMPORTS.encode()}
    graph = {module: kernel_sources.imports_of(module, text) for module, text in texts.items()}
    assert kernel_sources.reached(("kernels.norm",), graph, texts) >= {
        "kernels.norm",
        "kernels.attention.micro",
        "kernels.attention.softmax",
        "shared.step",
        "kernels.vmath",
        "kernels.sampling.doubles",
        "shared.held",
        "compiler.vec",  # by micro
    }
    assert "shared.isa" not in graph["kernels.norm"]


def test_the_slowest_begin_first():
    order = sorted(["each.add", "linear.q4_1", "norm.rms", "attend.f16"], key=kernel_cache._cost)
    assert order == ["attend.f16", "linear.q4_1", "norm.rms", "each.add"]


FULL = """
import ctypes, sys
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.cpu.runtime.native import Library

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
PRIVATE_ANONYMOUS_NORESERVE = 0x22 | 0x4000

library = Library(isa.choose("portable"), cache_dir=sys.argv[1])
names = ["norm.rms", "each.add", "each.gated-silu", "prepare.i8", "rope.half", "kv.f16"]
library.load(names[:1])
for name in names[1:]:
    libc.mmap(None, 3 << 30, 0, PRIVATE_ANONYMOUS_NORESERVE, -1, 0)
    for size in (1 << 24, 1 << 20, 1 << 16, 1 << 12):  # the holes that are left
        for _ in range(2000):
            libc.mmap(None, size, 0, PRIVATE_ANONYMOUS_NORESERVE, -1, 0)
    library.load([name])
print("loaded")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="fills memory as Linux lays it out")
def test_kernels_load_wherever_memory_is_left(tmp_path):
    """Between two loads a process may map more than an address of 32 bits reaches over."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout == "loaded\n", done.stderr[-2000:]


def test_a_note_of_kernels_that_there_no_longer_are_is_outdated(tmp_path):
    """As one that another state of these sources wrote; whoever reads it finds the list anew."""
    cache = str(tmp_path)
    kernel_cache.compile_missing(["team.stop"], TARGET, cache_dir=cache)
    kernel_cache.remember("a model", ["team.stop", "gone.apply"], TARGET, cache_dir=cache)
    noted = kernel_cache.recall("a model", TARGET, cache_dir=cache)
    assert noted is not None
    assert "gone.apply" in noted
    assert kernel_cache.are_kept(["team.stop"], TARGET, cache_dir=cache)
    assert not kernel_cache.are_kept(noted, TARGET, cache_dir=cache)
    with pytest.raises(ModelError, match=r"no CPU kernel gone\.apply"):
        kernel_sources.kernel_module("gone.apply")
