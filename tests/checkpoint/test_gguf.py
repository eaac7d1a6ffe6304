"""The container against the gguf package, and against files that mean harm."""

import random
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbee_worker.checkpoint.gguf import GgufFile
from rbee_worker.errors import BadReference, CheckpointError, UnsupportedModel
from tests.checkpoint import gguf_bytes as g
from tests.checkpoint.limits import refusal
from tests.yardstick import cpu_s, ratio

VALUES = {
    "t.u8": (200, gguf.GGUFValueType.UINT8),
    "t.i8": (-100, gguf.GGUFValueType.INT8),
    "t.u16": (60000, gguf.GGUFValueType.UINT16),
    "t.i16": (-30000, gguf.GGUFValueType.INT16),
    "t.u32": (4_000_000_000, gguf.GGUFValueType.UINT32),
    "t.i32": (-2_000_000_000, gguf.GGUFValueType.INT32),
    "t.u64": (2**63 + 5, gguf.GGUFValueType.UINT64),
    "t.i64": (-(2**62), gguf.GGUFValueType.INT64),
    "t.f32": (0.15625, gguf.GGUFValueType.FLOAT32),
    "t.f64": (0.1, gguf.GGUFValueType.FLOAT64),
    "t.bool": (True, gguf.GGUFValueType.BOOL),
    "t.string": ("naïve 日本", gguf.GGUFValueType.STRING),
}
ARRAYS = {
    "a.strings": ["a", "bc", "日本", " "],
    "a.zeros": ["a\0b", "", "\0", "c"],
    "a.ints": [1, -2, 3],
    "a.floats": [0.5, -0.25],
    "a.bools": [True, False, True],
    "a.nested": [[1, 2], [3]],
    "a.nested_strings": [["x", "yz"], ["w"]],
}


def write(path: Path, *, alignment: int = 32, endian: gguf.GGUFEndian | None = None) -> Path:
    """Every kind of value, and tensors of one to four dimensions."""
    writer = gguf.GGUFWriter(path, "llama", endianess=endian or gguf.GGUFEndian.LITTLE)
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    for name, (value, kind) in VALUES.items():
        writer.add_key_value(name, value, kind)
    for name, values in ARRAYS.items():
        writer.add_array(name, values)
    rng = np.random.default_rng(0)
    writer.add_tensor("vector", rng.standard_normal(5).astype(np.float32))
    writer.add_tensor("matrix", rng.standard_normal((3, 7)).astype(np.float16))
    writer.add_tensor("stack", rng.standard_normal((2, 3, 4)).astype(np.float32))
    blocks = rng.integers(0, 256, (6, 2 * 18), dtype=np.uint8)
    writer.add_tensor("packed", blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "sound.gguf")


@pytest.mark.parametrize("alignment", [32, 8, 256])
def test_reads_what_the_gguf_package_writes(tmp_path, alignment):
    path = write(tmp_path / "x.gguf", alignment=alignment)
    file, oracle = GgufFile.open(path), gguf.GGUFReader(path)
    assert file.version == 3
    assert file.alignment == alignment
    assert file.metadata["general.architecture"] == "llama"
    for name, (value, _) in VALUES.items():
        assert file.metadata[name] == value
        assert type(file.metadata[name]) is type(value)
    for name, values in ARRAYS.items():
        assert file.metadata[name] == values
        assert file.metadata.array_length(name) == len(values)
    assert {*file.metadata} == {k for k in oracle.fields if not k.startswith("GGUF.")}
    assert len(file.metadata) == len({*file.metadata})
    assert [*file.tensors] == [t.name for t in oracle.tensors]
    for t in oracle.tensors:
        found = file.tensors[t.name]
        assert found.format == t.tensor_type.name
        assert found.shape == tuple(int(n) for n in reversed(t.shape))
        assert (found.offset, found.nbytes) == (t.data_offset, t.n_bytes)
        packed = file.read(t.name)
        assert (packed.format, packed.shape) == (found.format, found.shape)
        assert packed.data.tobytes() == t.data.tobytes()
        assert packed.data.shape[0] == int(np.prod(found.shape[:-1]))


def test_metadata_that_is_absent(sound):
    metadata = GgufFile.open(sound).metadata
    assert "nothing" not in metadata
    assert metadata.get("nothing", 7) == 7
    assert metadata.array_length("nothing") is None
    assert metadata.array_length("t.u8") is None
    with pytest.raises(KeyError):
        metadata["nothing"]


def test_version_2_is_read(sound, tmp_path):
    raw = bytearray(sound.read_bytes())
    raw[4:8] = g.u32(2)
    (tmp_path / "v2.gguf").write_bytes(raw)
    file = GgufFile.open(tmp_path / "v2.gguf")
    assert file.version == 2
    assert file.metadata["a.nested"] == [[1, 2], [3]]


def test_a_vocabulary_of_128k_tokens_opens_as_fast_as_its_strings_are_walked(tmp_path):
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(1, 12))) for _ in range(1000)]
    tokens = [f"{words[i % 1000]}{i}" for i in range(128_000)]
    merges = [f"{words[i % 1000]} {words[i // 1000]}" for i in range(280_000)]
    arrays = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges}
    (tmp_path / "vocab.gguf").write_bytes(
        g.gguf(
            [
                g.key(name, g.ARRAY, g.array(g.STRING, len(v), b"".join(map(g.text, v))))
                for name, v in arrays.items()
            ]
        )
    )
    raw = b"".join(map(g.text, [*tokens, *merges]))

    def opened():
        file = GgufFile.open(tmp_path / "vocab.gguf")
        return file, file.metadata["tokenizer.ggml.tokens"]

    def walked():
        at, texts = 0, []
        while at < len(raw):
            end = at + 8 + int.from_bytes(raw[at : at + 8], "little")
            texts.append(raw[at + 8 : end].decode())
            at = end
        return texts

    file, found = opened()
    assert found == tokens
    assert file.metadata["tokenizer.ggml.merges"] == merges
    assert walked() == [*tokens, *merges]
    assert ratio(lambda: cpu_s(opened), lambda: cpu_s(walked), enough=1) < 1


HUGE = 2**63
LONG = g.array(g.STRING, 3, g.text("a") + g.u64(HUGE) + b"bc" + g.text("d"))
DEEP = b"".join(g.array(g.ARRAY, 1, b"") for _ in range(20)) + g.array(g.U8, 0, b"")
HOSTILE = {
    "empty": (b"", "0 bytes"),
    "short": (b"GGUF\x03", "5 bytes"),
    "magic": (g.gguf(magic=b"GGML") + bytes(32), "not a GGUF file"),
    "zip": (b"PK\x03\x04" + bytes(60), "not a GGUF file"),
    "version 1": (g.gguf(version=g.u32(1)), "version 1"),
    "version 4": (g.gguf(version=g.u32(4)), "version 4"),
    "big endian": (g.gguf(version=b"\0\0\0\3"), "big-endian"),
    "keys": (g.gguf(n_keys=HUGE), "metadata keys"),
    "keys that fit": (g.gguf(n_keys=70_000) + bytes(1 << 20), "metadata keys"),
    "tensors": (g.gguf(n_tensors=HUGE), "number of tensors"),
    "many tensors": (g.gguf(n_tensors=200_000) + bytes(6 << 20), "200000 tensors"),
    "alignment 0": (g.gguf([g.key("general.alignment", g.U32, g.u32(0))]), "power of two"),
    "alignment 3": (g.gguf([g.key("general.alignment", g.U32, g.u32(3))]), "power of two"),
    "alignment huge": (g.gguf([g.key("general.alignment", g.U64, g.u64(HUGE))]), "power of two"),
    "alignment text": (g.gguf([g.key("general.alignment", g.STRING, g.text("x"))]), "power of"),
    "alignment flag": (g.gguf([g.key("general.alignment", g.BOOL, b"\1")]), "power of two"),
    "duplicate key": (g.gguf([g.key("k", g.U8, b"\1")] * 2), "'k' occurs twice"),
    "empty key": (g.gguf([g.key("", g.U8, b"\1")]), "length of"),
    "long key": (g.gguf([g.u64(HUGE) + bytes(20)]), "length of"),
    "key no text": (g.gguf([g.key(b"\xff\xfe", g.U8, b"\1")]), "not UTF-8"),
    "value type": (g.gguf([g.key("k", 13, b"\1")]), "unknown type 13"),
    "array type": (g.gguf([g.key("k", g.ARRAY, g.array(99, 1, b"\1"))]), "unknown type 99"),
    "array count": (g.gguf([g.key("k", g.ARRAY, g.array(g.U8, HUGE, b""))]), "entries"),
    "array overflow": (g.gguf([g.key("k", g.ARRAY, g.array(g.F64, 2**61, b""))]), "entries"),
    "strings count": (g.gguf([g.key("k", g.ARRAY, g.array(g.STRING, HUGE, b""))]), "entries"),
    "string in array": (g.gguf([g.key("k", g.ARRAY, LONG)]) + bytes(64), "ends inside"),
    "string": (g.gguf([g.key("k", g.STRING, g.u64(HUGE) + b"abc")]), "ends inside"),
    "nesting": (g.gguf([g.key("k", g.ARRAY, DEEP)]), "deeper"),
    "nested count": (g.gguf([g.key("k", g.ARRAY, g.array(g.ARRAY, HUGE, b""))]), "entries"),
    "duplicate tensor": (
        g.gguf([], [g.tensor("t", (4,), 0, 0), g.tensor("t", (4,), 0, 32)], bytes(64)),
        "'t' occurs twice",
    ),
    "dimensions": (g.gguf([], [g.tensor("t", (1,) * 5)], bytes(64)), "5 dimensions"),
    "many dimensions": (g.gguf([], [g.text("t") + g.u32(2**32 - 1)], bytes(64)), "dimensions"),
    "no dimension": (g.gguf([], [g.tensor("t", (0, 4))], bytes(64)), "empty dimension"),
    "shape overflow": (g.gguf([], [g.tensor("t", (2**62, 8))], bytes(64)), "ends at"),
    "shape wraps to 0": (g.gguf([], [g.tensor("t", (2**32, 2**32))], bytes(64)), "ends at"),
    "block": (g.gguf([], [g.tensor("t", (31,), 2)], bytes(64)), "whole Q4_0 blocks"),
    "offset": (g.gguf([], [g.tensor("t", (4,), 0, 2**60)], bytes(64)), "ends at"),
    "offset wraps": (g.gguf([], [g.tensor("t", (4,), 0, 2**64 - 32)], bytes(64)), "ends at"),
    "unaligned": (g.gguf([], [g.tensor("t", (4,), 0, 4)], bytes(64)), "not aligned"),
    "cut data": (g.gguf([], [g.tensor("t", (16,))], bytes(63)), "ends at"),
    "overlap": (
        g.gguf([], [g.tensor("t", (16,), 0, 0), g.tensor("u", (16,), 0, 32)], bytes(96)),
        "'t' and 'u' overlap",
    ),
    "tensor no text": (g.gguf([], [g.tensor(b"\xff", (4,))], bytes(64)), "not UTF-8"),
    "unknown far": (g.gguf([], [g.tensor("t", (4,), 77, 2**40)], bytes(64)), "ends at"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_cheaply(tmp_path, name):
    raw, says = HOSTILE[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    error = refusal(lambda: GgufFile.open(path))
    assert says in error.message
    assert str(path) in error.message


def test_a_big_endian_file_is_named(tmp_path):
    path = write(tmp_path / "big.gguf", endian=gguf.GGUFEndian.BIG)
    with pytest.raises(CheckpointError, match=r"big-endian.*gguf-convert-endian"):
        GgufFile.open(path)


def test_every_truncation_is_refused(sound, tmp_path):
    raw = sound.read_bytes()
    path = tmp_path / "cut.gguf"
    for size in [*range(0, len(raw) - 1, 13), len(raw) - 33]:
        path.write_bytes(raw[:size])
        with pytest.raises(CheckpointError):
            GgufFile.open(path)


def test_millions_of_strings_are_refused_in_time(tmp_path):
    path = tmp_path / "bad.gguf"
    count = 3 << 20
    path.write_bytes(g.gguf([g.key("k", g.ARRAY, g.array(g.STRING, count, bytes(8 * count)))]))
    assert "items" in refusal(lambda: GgufFile.open(path)).message


def test_metadata_beyond_its_limit_is_refused(tmp_path):
    path = tmp_path / "bad.gguf"
    size = 80 << 20
    with path.open("wb") as file:
        file.write(g.gguf([g.key("k", g.STRING, g.u64(size))], alignment=1))
        file.truncate(size + 200)
    assert "64 MiB" in refusal(lambda: GgufFile.open(path)).message


def test_an_unknown_type_is_named_and_refused_when_read(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(
        g.gguf([], [g.tensor("t", (4,), 77, 0), g.tensor("u", (256,), 15, 32)], bytes(512))
    )
    file = GgufFile.open(path)
    assert file.tensors["t"].format == "GGML_77"
    assert file.info("u").nbytes == 292
    with pytest.raises(UnsupportedModel, match="'t' is in format GGML_77"):
        file.read("t")
    with pytest.raises(UnsupportedModel, match="'u' is in format Q8_K"):
        file.read("u")


def test_text_that_is_not_utf8(tmp_path):
    path = tmp_path / "x.gguf"
    tokens = g.array(g.STRING, 2, g.text("a") + g.text(b"\xff"))
    path.write_bytes(
        g.gguf([g.key("author", g.STRING, g.text(b"\xe9")), g.key("tokens", g.ARRAY, tokens)])
    )
    metadata = GgufFile.open(path).metadata
    assert metadata["author"] == "�"
    with pytest.raises(CheckpointError, match="element of metadata key 'tokens'"):
        metadata["tokens"]


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "absent.gguf"):
        with pytest.raises(BadReference, match="cannot be opened"):
            GgufFile.open(path)


def test_a_view_outlives_the_file(sound):
    packed = GgufFile.open(sound).read("vector")
    oracle = {t.name: t for t in gguf.GGUFReader(sound).tensors}["vector"]
    assert np.array_equal(packed.data.view(np.float32)[0], oracle.data)
    assert not packed.data.flags.writeable


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    flips=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), min_size=1, max_size=4),
    keep=st.integers(0, 1200) | st.none(),
)
def test_damage_gives_an_error_or_a_readable_file(damage, flips, keep):
    raw, path = bytearray(damage[0]), damage[1]
    for at, value in flips:
        raw[at % len(raw)] = value
    path.write_bytes(raw[:keep])
    try:
        file = GgufFile.open(path)
        for key in file.metadata:
            file.metadata[key]
        for name, t in file.tensors.items():
            assert t.offset + t.nbytes <= len(raw)
            file.read(name)
    except (CheckpointError, UnsupportedModel):
        pass


@pytest.fixture(scope="module")
def damage(sound, tmp_path_factory):
    return sound.read_bytes(), tmp_path_factory.mktemp("fuzz") / "x.gguf"
