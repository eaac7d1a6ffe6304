"""Safetensors against the safetensors library, and against files that mean harm."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rbee_worker.checkpoint.safetensors import SafetensorsFile, open_directory
from rbee_worker.checkpoint.weight_files import INDEX
from rbee_worker.errors import BadReference, CheckpointError, UnsupportedModel
from rbee_worker.ops.reference.dequant import dequantize
from tests.checkpoint.limits import refusal

FLOATS = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f64": torch.float64,
}
INTEGERS = {"i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64}


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    out = {name: torch.randn(3, 5).to(dtype) for name, dtype in FLOATS.items()}
    out |= {name: torch.randint(-99, 99, (7,)).to(dtype) for name, dtype in INTEGERS.items()}
    out |= {"u8": torch.arange(4, dtype=torch.uint8), "bool": torch.tensor([True, False])}
    return out | {
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "deep": torch.ones(2, 3, 4),
    }


def sealed(header: bytes | str | dict, data: bytes = b"", length: int | None = None) -> bytes:
    """A file around any header."""
    raw = json.dumps(header) if isinstance(header, dict) else header
    raw = raw.encode() if isinstance(raw, str) else raw
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: list, start: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_reads_what_the_library_writes(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(tensors(), path, metadata={"format": "pt", "braces": '{"a": "}{"}'})
    file = SafetensorsFile.open(path)
    assert {*file.tensors} == {*tensors()}
    for name, want in tensors().items():
        packed = file.read(name)
        assert packed.shape == tuple(want.shape)
        assert packed.data.nbytes == want.nbytes
        raw = want.reshape(-1).view(torch.uint8) if want.numel() else torch.zeros(0)
        assert packed.data.tobytes() == raw.numpy().tobytes()
    for name in FLOATS:
        assert torch.equal(dequantize(file.read(name)), load_file(path)[name].float())
    assert not file.read("f32").data.flags.writeable


def test_a_file_without_tensors(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({}, path)
    assert SafetensorsFile.open(path).tensors == {}
    path.write_bytes(sealed('{"__metadata__":{"a":"b"}}  '))
    assert SafetensorsFile.open(path).tensors == {}


def test_white_space_and_escapes_in_the_header(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(
        sealed(
            ' {\n "a\\"\\u00e9" : { "shape":[ 1 ],"data_offsets" : [0 ,4],"dtype":"F32" } ,'
            '"b":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}\t ',
            bytes(8),
        )
    )
    assert [*SafetensorsFile.open(path).tensors] == ['a"é', "b"]
    with safe_open(path, "pt") as oracle:
        assert {*oracle.keys()} == {'a"é', "b"}


F8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


@pytest.mark.parametrize("name", F8)
def test_eight_bit_floats_are_named_and_refused(tmp_path, name):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(4, 2).to(F8[name])}, path)
    file = SafetensorsFile.open(path)
    assert file.tensors["w"].format == name
    with pytest.raises(UnsupportedModel, match=f"'w' is in format {name}"):
        file.read("w")


def test_integers_are_read_but_not_computed_with(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(4, dtype=torch.int32)}, path)
    packed = SafetensorsFile.open(path).read("w")
    with pytest.raises(UnsupportedModel, match="format I32"):
        dequantize(packed)


A = entry([2], 0, 8)
NESTED = '{"a":' + "[" * 100_000
HOSTILE = {
    "empty": (b"", "0 bytes"),
    "length": (sealed("{}", length=2**63), "header length"),
    "length past end": (sealed("{}", length=3), "header length"),
    "large": (sealed(b" " * (17 << 20)), "a header of"),
    "no object": (sealed("[1, 2]"), "not valid"),
    "cut": (sealed('{"a":{"dtype":"F32"'), "not valid"),
    "trailing": (sealed('{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}x', bytes(4)), "not"),
    "comma": (sealed('{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},}', bytes(4)), "not"),
    "nested": (sealed(NESTED), "not valid"),
    "nested object": (sealed('{"a":' * 50_000), "not valid"),
    # Python 3.11 does not read it, 3.12 does
    "nested entry": (sealed('{"a":{"dtype":' + "[" * 2000 + "]" * 2000 + "}}"), "not valid|lacks"),
    "long entry": (sealed('{"a":{"dtype":"' + "F" * 5000 + '"}}'), "takes 50"),
    "utf-8": (sealed(b'{"\xff":{}}'), "UTF-8"),
    "no dtype": (sealed({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "'a' lacks"),
    "dtype number": (sealed({"a": entry([2], 0, 8, 5)}, bytes(8)), "'a' lacks"),
    "shape text": (sealed({"a": entry("x", 0, 8)}, bytes(8)), "'a' lacks"),
    "shape negative": (sealed({"a": entry([-2, -1], 0, 8)}, bytes(8)), "'a' lacks"),
    "shape float": (sealed({"a": entry([2.0], 0, 8)}, bytes(8)), "'a' lacks"),
    "shape flag": (sealed({"a": entry([True, 2], 0, 8)}, bytes(8)), "'a' lacks"),
    "shape overflow": (sealed({"a": entry([2**33, 2**33], 0, 0)}), "does not take 0"),
    "shape digits": (sealed('{"a":{"shape":[1' + "0" * 4000 + "]}}"), "lacks"),
    "dimensions": (sealed({"a": entry([1] * 9, 0, 4)}, bytes(4)), "9 dimensions"),
    "offsets one": (sealed({"a": {**A, "data_offsets": [8]}}, bytes(8)), "'a' lacks"),
    "offsets back": (sealed({"a": {**A, "data_offsets": [8, 0]}}, bytes(8)), "does not take -8"),
    "size": (sealed({"a": entry([3], 0, 8)}, bytes(8)), "does not take 8"),
    "past end": (sealed({"a": A}, bytes(7)), "ends at byte"),
    "far": (sealed({"a": entry([2], 2**62, 2**62 + 8)}, bytes(8)), "ends at byte"),
    "overlap": (sealed({"a": A, "b": entry([2], 4, 12)}, bytes(12)), "overlap"),
    "same": (sealed({"a": A, "b": A}, bytes(8)), "overlap"),
    "gap": (sealed({"a": A, "b": entry([2], 12, 20)}, bytes(20)), "gap"),
    "first gap": (sealed({"a": entry([2], 4, 12)}, bytes(12)), "gap"),
    "rest": (sealed({"a": A}, bytes(9)), "1 bytes after"),
    "twice": (sealed(f'{{"a":{json.dumps(A)},"a":{json.dumps(A)}}}', bytes(8)), "'a' twice"),
    "dtype twice": (
        sealed('{"a":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}}', bytes(4)),
        "not valid JSON",
    ),
    "metadata twice": (sealed('{"__metadata__":{},"__metadata__":{}}'), "twice"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_cheaply(tmp_path, name):
    raw, says = HOSTILE[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    error = refusal(lambda: SafetensorsFile.open(path))
    assert any(words in error.message for words in says.split("|"))
    assert str(path) in error.message


# What the library, too, refuses; it lets some of the others pass.
@pytest.mark.parametrize("name", ["length", "cut", "size", "overlap", "gap", "rest", "past end"])
def test_the_library_refuses_them_too(tmp_path, name):
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[name][0])
    with pytest.raises(SafetensorError), safe_open(path, "pt"):
        pass


@pytest.mark.parametrize(
    "header",
    [
        '{"a":{"x":' + '"' + "\\\\" * 1_000_000 + '"}}',
        '{"a":{' + '"" ' * 1_000_000,
        '{"a":{' + "x" * 3_000_000,
        '{"' + "\\a" * 1_500_000,
        "{" + " " * 3_000_000,
        "{" + ",".join(f'"{i}":{{}}' for i in range(200_000)) + "}",
        '{"__metadata__":{' + ",".join(f'"{i}":""' for i in range(200_000)) + "},}",
    ],
)
def test_large_headers_take_linear_time(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(sealed(header))
    assert "header" in refusal(lambda: SafetensorsFile.open(path)).message


@settings(max_examples=200, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), min_size=1, max_size=4),
    keep=st.integers(0, 1500) | st.none(),
)
def test_damage_gives_an_error_or_a_readable_file(damage, flips, keep):
    raw, path = bytearray(damage[0]), damage[1]
    for at, value in flips:
        raw[at % len(raw)] = value
    path.write_bytes(raw[:keep])
    try:
        file = SafetensorsFile.open(path)
        for name, t in file.tensors.items():
            assert t.offset + t.nbytes <= len(raw)
            file.read(name)
    except (CheckpointError, UnsupportedModel):
        pass


@pytest.fixture(scope="module")
def damage(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    save_file(tensors(), path)
    return path.read_bytes(), path


# ---- directories


def shard(folder: Path, weight_map: dict[str, str] | None = None) -> dict[str, torch.Tensor]:
    """Two shards and their index."""
    everything = {f"t{i}": torch.full((2, 2), float(i)) for i in range(4)}
    names = [*everything]
    files = {
        "model-00001-of-00002.safetensors": names[:3],
        "model-00002-of-00002.safetensors": names[3:],
    }
    for file, held in files.items():
        save_file({name: everything[name] for name in held}, folder / file)
    if weight_map is None:
        weight_map = {name: file for file, held in files.items() for name in held}
    index = {"metadata": {"total_size": 64, "weight_map": 1}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2))
    return everything


def test_shards_are_one_source(tmp_path):
    want = shard(tmp_path)
    source, notes = open_directory(tmp_path)
    assert sorted(source.names()) == [*want]
    for name, tensor in want.items():
        assert source.info(name).shape == (2, 2)
        assert source.info(name).nbytes == 16
        assert torch.equal(dequantize(source.read(name)), tensor)
    assert notes == ()
    with pytest.raises(KeyError):
        source.info("absent")


def test_one_file_under_any_name_and_the_unused_ones_noted(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    source, notes = open_directory(tmp_path)
    assert (source.names(), notes) == (["a"], ())
    save_file({"b": torch.ones(2)}, tmp_path / "model.safetensors")
    source, notes = open_directory(tmp_path)
    assert source.names() == ["b"]
    assert notes == ("weights.safetensors is not part of the model",)


def test_several_files_need_an_index(tmp_path):
    shard(tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(CheckpointError, match=f"2 safetensors files and no {INDEX}"):
        open_directory(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    shard(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"file model-00002-of-00002\.safetensors"):
        open_directory(tmp_path)


ONE = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        ({"t0": "../model.safetensors"}, "not a plain file name"),
        ({"t0": "/etc/passwd"}, "not a plain file name"),
        ({"t0": "a\\b.safetensors"}, "not a plain file name"),
        ({"t0": ".."}, "not a plain file name"),
        ({"t0": ""}, "not a plain file name"),
        ({"t0": "pytorch_model.bin"}, "not a safetensors file"),
        ({"absent": ONE}, "'absent' is in model-00001-of-00002.safetensors, which lacks it"),
        ({"t0": 5}, "not a valid index"),
        ({}, "not a valid index"),
        ([], "has no weight_map"),
    ],
)
def test_hostile_indexes_are_refused(tmp_path, weight_map, says):
    shard(tmp_path, weight_map)
    error = refusal(lambda: open_directory(tmp_path))
    assert says in error.message
    assert INDEX in error.message


def test_the_index_decides_which_file_a_tensor_comes_from(tmp_path):
    everything = shard(tmp_path)
    other = {name: tensor + 1 for name, tensor in everything.items()}
    second = {"t3": everything["t3"], "t0": other["t0"]}
    save_file(second, tmp_path / "model-00002-of-00002.safetensors")
    source, _ = open_directory(tmp_path)
    for name, tensor in everything.items():
        assert torch.equal(dequantize(source.read(name)), tensor)


def test_a_tensor_in_two_files_of_which_the_index_says_nothing_is_refused(tmp_path):
    everything = shard(tmp_path, {"t1": ONE, "t3": "model-00002-of-00002.safetensors"})
    save_file(
        {"t3": everything["t3"], "t0": everything["t0"]},
        tmp_path / "model-00002-of-00002.safetensors",
    )
    with pytest.raises(CheckpointError, match="'t0' is also in"):
        open_directory(tmp_path)


NULL = b'{"__metadata__":null,"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


def test_metadata_that_are_null_are_read_as_the_library_reads_them(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(NULL).to_bytes(8, "little") + NULL + np.arange(2, dtype="f4").tobytes())
    want = load_file(path)
    assert torch.equal(want["a"], torch.tensor([0.0, 1.0]))
    assert torch.equal(dequantize(open_directory(tmp_path)[0].read("a")), want["a"])
    for bad in (
        NULL.replace(b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}', b"null"),
        NULL.replace(b"null", b"5"),
    ):
        path.write_bytes(len(bad).to_bytes(8, "little") + bad + bytes(8))
        with pytest.raises(CheckpointError):
            open_directory(tmp_path)
        with pytest.raises(SafetensorError):
            load_file(path)


def test_links_lead_only_inside(tmp_path):
    folder, elsewhere = tmp_path / "m", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    for home in (folder, elsewhere):
        save_file({"a": torch.ones(2)}, home / "weights.safetensors")
    link = folder / "model.safetensors"
    link.symlink_to("weights.safetensors")
    assert open_directory(folder)[0].names() == ["a"]
    link.unlink()
    link.symlink_to(elsewhere / "weights.safetensors")
    with pytest.raises(CheckpointError, match="a link that leads out of the model's directory"):
        open_directory(folder)
    link.unlink()
    link.symlink_to("model.safetensors")
    with pytest.raises(CheckpointError):
        open_directory(folder)


def test_an_index_that_names_a_tensor_twice_is_refused(tmp_path):
    shard(tmp_path)
    (tmp_path / INDEX).write_text(f'{{"weight_map": {{"t0": "{ONE}", "t0": "{ONE}"}}}}')
    with pytest.raises(CheckpointError, match="'t0' twice"):
        open_directory(tmp_path)


def test_a_long_index_is_refused_in_time(tmp_path):
    shard(tmp_path)
    pairs = ",".join(f'"t{i}":"{ONE}"' for i in range(300_000))
    (tmp_path / INDEX).write_text('{"weight_map":{' + pairs + "}}")
    assert "more than" in refusal(lambda: open_directory(tmp_path), traced=False).message


@pytest.mark.parametrize(
    ("file", "says", "fix"),
    [
        ("pytorch_model.bin", "pickled weights", "safetensors"),
        ("consolidated.00.pth", "pickled weights", "safetensors"),
        ("model.gguf", "GGUF files", "name the file"),
        ("readme.txt", "no safetensors file", "model directory"),
    ],
)
def test_directories_without_safetensors(tmp_path, file, says, fix):
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(CheckpointError) as caught:
        open_directory(tmp_path)
    assert says in caught.value.message
    assert fix in str(caught.value.fix)


def test_what_is_no_file(tmp_path):
    with pytest.raises(BadReference, match="cannot be opened"):
        SafetensorsFile.open(tmp_path)
