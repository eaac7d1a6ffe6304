"""A model in several GGUF files, as the gguf package splits it, read as it reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.gguf import GgufFile
from rbee_worker.checkpoint.gguf_split import open_gguf
from rbee_worker.checkpoint.weight_files import parts_of
from rbee_worker.errors import CheckpointError
from tests import tiny
from tests.checkpoint import gguf_bytes as g

COUNT = 7


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first file of tiny's model in seven; the whole of it lies beside."""
    folder = tmp_path_factory.mktemp("split")
    whole = tiny.write_gguf(folder / "whole.gguf")
    reader = gguf.GGUFReader(whole)
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=3)
    for name, field in reader.fields.items():
        kind = field.types[0]
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    files = sorted(folder.glob("m-*.gguf"))
    assert len(files) == COUNT
    return files[0]


@pytest.mark.parametrize("number", [1, 2, COUNT])
def test_any_part_opens_the_whole_model(split: Path, number: int) -> None:
    path = split.with_name(f"m-{number:05d}-of-{COUNT:05d}.gguf")
    ours = open_checkpoint(str(path))
    whole = open_checkpoint(str(split.with_name("whole.gguf")))
    assert ours.config == whole.config
    assert ours.notes == whole.notes
    assert ours.source.names() == whole.source.names()
    for name in whole.source.names():
        assert np.array_equal(ours.source.read(name).data, whole.source.read(name).data)
    ours.source.release()
    assert ours.gguf is not None
    assert len(ours.gguf.metadata["tokenizer.ggml.tokens"]) == tiny.VOCAB


def test_every_tensor_is_where_the_gguf_package_finds_it(split: Path) -> None:
    ours = open_gguf(split)
    for part, path in enumerate(sorted(split.parent.glob("m-*.gguf"))):
        for tensor in gguf.GGUFReader(path).tensors:
            found = ours.tensors[tensor.name]
            assert (found.part, found.offset) == (part, tensor.data_offset)
            assert ours.read(tensor.name).data.tobytes() == tensor.data.tobytes()


def copied(split: Path, folder: Path) -> list[Path]:
    return [Path(shutil.copy(path, folder)) for path in sorted(split.parent.glob("m-*.gguf"))]


def test_a_missing_part_is_named(split: Path, tmp_path: Path) -> None:
    files = copied(split, tmp_path)
    files[3].unlink()
    with pytest.raises(CheckpointError, match=rf"m-00004-of-0000{COUNT}\.gguf: missing") as caught:
        open_gguf(files[0])
    assert caught.value.fix


def test_a_part_of_another_model_is_named(split: Path, tmp_path: Path) -> None:
    files = copied(split, tmp_path)
    shutil.copy(files[1], files[2])
    with pytest.raises(CheckpointError, match=r"00003-of.*says that it is part 1 \(from 0\)"):
        open_gguf(files[0])


def test_a_renamed_part_is_named(split: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(split, tmp_path / "model.gguf"))
    with pytest.raises(CheckpointError, match=r"one of 7 files, but its name does not say"):
        open_gguf(path)


def test_a_part_cut_short_is_named(split: Path, tmp_path: Path) -> None:
    files = copied(split, tmp_path)
    files[2].write_bytes(files[2].read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="m-00003-of"):
        open_gguf(files[0])


def test_parts_are_not_sought_outside(split: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    files = copied(split, tmp_path / "in")
    moved = files[2].rename(tmp_path / files[2].name)
    files[2].symlink_to(moved)
    with pytest.raises(CheckpointError, match="a link that leads out"):
        open_gguf(files[0])


def part(folder: Path, number: int, count: int, *tensors: str, total: int | None = None) -> Path:
    keys = [
        g.key("split.no", 2, number.to_bytes(2, "little")),
        g.key("split.count", 2, count.to_bytes(2, "little")),
    ]
    if total is not None:
        keys.append(g.key("split.tensors.count", g.I32, g.u32(total)))
    made = [g.tensor(name, (8,), 0, 32 * n) for n, name in enumerate(tensors)]
    path = folder / f"x-{number + 1:05d}-of-{count:05d}.gguf"
    path.write_bytes(g.gguf(keys, made, bytes(32 * len(tensors))))
    return path


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    first = part(tmp_path, 0, 2, "a", "b")
    part(tmp_path, 1, 2, "b")
    with pytest.raises(CheckpointError, match="'b' is in another part as well"):
        open_gguf(first)


def test_a_wrong_number_of_tensors_is_refused(tmp_path: Path) -> None:
    first = part(tmp_path, 0, 2, "a", total=3)
    part(tmp_path, 1, 2, "b")
    with pytest.raises(CheckpointError, match="2 parts have 2 tensors, but the first says 3"):
        open_gguf(first)


@pytest.mark.parametrize("count", [5000, 65535])
def test_counts_of_parts_are_not_believed(tmp_path: Path, count: int) -> None:
    path = part(tmp_path, 0, count, "a")
    with pytest.raises(CheckpointError):
        open_gguf(path)


def test_a_count_of_the_wrong_kind(tmp_path: Path) -> None:
    path = tmp_path / "x-00001-of-00002.gguf"
    path.write_bytes(g.gguf([g.key("split.count", g.STRING, g.text("2"))]))
    with pytest.raises(CheckpointError, match=r"split.count is '2'"):
        open_gguf(path)
    assert GgufFile.open(path).metadata["split.count"] == "2"


def test_names_of_parts() -> None:
    assert parts_of("m.gguf") == ["m.gguf"]
    assert parts_of("m-00001-of-00001.gguf") == ["m-00001-of-00001.gguf"]
    assert parts_of("m-00002-of-00003.gguf") == [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert parts_of("m-00002-of-99999.gguf") == ["m-00002-of-99999.gguf"]
