"""How weights are read is chosen by measuring, kept by processor, and never tuned by hand."""

import msgspec
import numpy as np
import pytest
import torch

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.cli.inspect import rows
from rbee_worker.cli.report import report
from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.machine import processor
from rbee_worker.ops.cpu.runtime import readings
from rbee_worker.ops.cpu.runtime.reading_speed import Bench, speeds
from rbee_worker.ops.cpu.runtime.readings import MEASURE, Kept, choose
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.cpu.shared.forms import BYTES
from rbee_worker.ops.cpu.shared.reading import NEXT, ONE, SEVERAL, UNMEASURED, Reading, parsed
from tests import tiny
from tests.ops.cpu.eager import Eager
from tests.ops.cpu.test_linear import activations, aligned, matrix, product

ZEN = {"4:2048": 17.4, "1:0": 32.5, "1:2048": 27.6}  # GB/s, one thread; the others are slower
RAPIDS = {"4:2048": 16.1, "1:0": 10.2, "1:2048": 11.0}
NAMES = ["linear.q4_0", "stacked.q6_k"]


class Fake:
    """Measures what it is told, and counts how often it is asked. several: the fastest `far`."""

    def __init__(self, one, several="4096"):
        self.one, self.several, self.asked = one, several, []

    def __call__(self, names):
        self.asked.append(list(names))
        return {name: self.rates() for name in names}

    def rates(self):
        one = {r.with_one: self.one.get(r.with_one, 5.0) for r in ONE}
        return one | {r.with_several: 9.0 + (r.with_several == self.several) for r in SEVERAL}


def chosen(*args):
    """The readings of a choice that can be kept."""
    choice = choose(*args)
    assert choice.note == ""
    return choice.readings


def kept(folder, cpu="one"):
    where = Kept(isa.choose(), cache_dir=str(folder), cpu=cpu)
    where._path.parent.mkdir(parents=True, exist_ok=True)
    return where


def test_the_fastest_way_is_chosen(tmp_path):
    on_zen = chosen(NAMES, kept(tmp_path / "a"), Fake(ZEN))
    assert on_zen == dict.fromkeys(NAMES, Reading(1, 0, 4096))
    on_rapids = chosen(NAMES, kept(tmp_path / "b"), Fake(RAPIDS, "next"))
    assert on_rapids == dict.fromkeys(NAMES, Reading(4, 2048, NEXT))


def test_only_kernels_that_read_weights_are_measured(tmp_path):
    fake = Fake(ZEN)
    assert list(chosen(["norm.rms", *NAMES, "attend.f16"], kept(tmp_path), fake)) == NAMES
    assert fake.asked == [NAMES]
    assert chosen(["norm.rms"], kept(tmp_path), fake) == {}
    assert fake.asked == [NAMES]


def test_a_kept_choice_is_used_again(tmp_path):
    first, again = Fake(ZEN), Fake(RAPIDS)
    found = chosen(NAMES, kept(tmp_path), first)
    assert chosen(NAMES, kept(tmp_path), again) == found
    assert again.asked == []
    more = chosen([*NAMES, "linear.q8_0"], kept(tmp_path), again)  # only what is new
    assert again.asked == [["linear.q8_0"]]
    assert more["linear.q4_0"] == Reading(1, 0, 4096)
    assert more["linear.q8_0"] == Reading(4, 2048, 4096)
    assert kept(tmp_path).read().keys() == {*NAMES, "linear.q8_0"}


def test_another_processor_measures_again(tmp_path):
    chosen(NAMES, kept(tmp_path), Fake(ZEN))
    fake = Fake(RAPIDS)
    assert chosen(NAMES, kept(tmp_path, "another"), fake)[NAMES[0]].streams == 4
    assert fake.asked == [NAMES]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"linear.q4_0": 3}', b"\xff\x00"])
def test_a_corrupt_file_is_measured_again(tmp_path, text):
    chosen(NAMES, kept(tmp_path), Fake(ZEN))
    kept(tmp_path)._path.write_bytes(text)
    fake = Fake(RAPIDS)
    assert chosen(NAMES, kept(tmp_path), fake)[NAMES[0]].streams == 4
    assert fake.asked == [NAMES]
    assert chosen(NAMES, kept(tmp_path), Fake(ZEN))[NAMES[0]].streams == 4  # the file is whole now


def test_kernels_that_are_no_more_are_left_aside(tmp_path):
    """The folder may be an older or a newer version's too, whose kernels have other names."""
    found = chosen(NAMES, kept(tmp_path), Fake(ZEN))
    path = kept(tmp_path)._path
    whole = msgspec.json.decode(path.read_bytes())
    whole |= {"matmul.q4_0": whole[NAMES[0]], "linear.q9_9": whole[NAMES[0]]}
    path.write_bytes(msgspec.json.encode(whole))
    fake = Fake(RAPIDS)
    assert chosen(NAMES, kept(tmp_path), fake) == found
    assert fake.asked == []
    assert readings.shown(kept(tmp_path)).keys() == {*NAMES}


def test_what_was_measured_of_other_sources_or_other_ways_is_measured_again(tmp_path, monkeypatch):
    chosen(NAMES, kept(tmp_path), Fake(ZEN))
    fewer, fake = Fake(ZEN), Fake(RAPIDS)
    fewer.rates = lambda: {"1:0": 3.0}
    kept(tmp_path).add(fewer(NAMES[:1]))
    chosen(NAMES, kept(tmp_path), fake)
    assert fake.asked == [NAMES[:1]]
    monkeypatch.setattr(readings, "stem", lambda name, where: f"{name}-changed")
    chosen(NAMES, kept(tmp_path), fake)
    assert fake.asked == [NAMES[:1], NAMES]


def test_a_folder_that_cannot_be_written_keeps_nothing_and_says_so(tmp_path):
    (tmp_path / "kernels").write_text("a file")
    nowhere, fake = Kept(isa.choose(), cache_dir=str(tmp_path), cpu="one"), Fake(ZEN)
    for _ in range(2):
        choice = choose(NAMES, nowhere, fake)
        assert choice.readings == dict.fromkeys(NAMES, Reading(1, 0, 4096))
        assert f"cannot be kept in {tmp_path / 'kernels'}" in choice.note
        assert "set RBEE_CPU_READING=1:0:4096" in choice.note
    assert fake.asked == [NAMES, NAMES]


def test_measuring_can_be_asked_for(tmp_path):
    chosen(NAMES, kept(tmp_path), Fake(ZEN))
    assert chosen(NAMES, kept(tmp_path), Fake(RAPIDS), MEASURE)[NAMES[0]].streams == 4
    assert chosen(NAMES, kept(tmp_path), Fake(ZEN))[NAMES[0]].streams == 4  # the new one is kept


def test_an_override_is_respected(tmp_path, monkeypatch):
    fake = Fake(ZEN)
    monkeypatch.setenv(readings.VARIABLE, "4:3072:next")
    found = chosen(NAMES, kept(tmp_path), fake, readings.asked())
    assert found == dict.fromkeys(NAMES, Reading(4, 3072, NEXT))
    assert fake.asked == []
    assert kept(tmp_path).read() == {}


@pytest.mark.parametrize("text", ["", "auto", "measure", *map(str, (*ONE, *SEVERAL))])
def test_overrides(monkeypatch, text):
    monkeypatch.setenv(readings.VARIABLE, text)
    assert str(readings.asked()) == (text or "auto")


@pytest.mark.parametrize(
    "text", ["fast", "2:0:0", "1:0", "1:0:0:0", "1:-1:0", "1:next:0", "1:0:x", "4:2e3:0", "1:²:0"]
)
def test_a_bad_override_is_refused_in_one_line(monkeypatch, text):
    monkeypatch.setenv(readings.VARIABLE, text)
    with pytest.raises(UsageError) as raised:
        readings.asked()
    assert f"RBEE_CPU_READING={text!r} is not a way to read weights" in str(raised.value)
    assert "1:0:4096" in raised.value.fix
    assert "\n" not in f"{raised.value}{raised.value.fix}"


def test_distances_have_an_end():
    assert parsed("1:1048576:0") == Reading(1, 1 << 20, 0)
    assert parsed("1:1048577:0") is parsed("1:0:99999999999999999999") is None


def test_a_way_has_its_best_rate_of_all_rounds():
    calls = []

    def rate(name, tokens, reading):
        calls.append((name, tokens, reading))
        return 1e9 * (len(calls) if len(calls) <= 20 else 1)  # the second round is slower

    found = speeds(rate, ["linear.q4_0", "linear.q8_0"])
    first = ["1:0", "1:2048", "1:3072", "4:0", "4:2048", "4:3072", "0", "2048", "4096", "next"]
    assert found["linear.q4_0"] == {way: n for n, way in enumerate(first, 1)}
    assert found["linear.q8_0"] == {way: n for n, way in enumerate(first, 11)}
    assert {tokens for _, tokens, _ in calls} == {1, 8}


@pytest.mark.parametrize("name", ["linear.q4_k-k16", "stacked.q8_0", "linear.bf16"])
def test_kernels_run_while_they_are_measured(best, name):
    bench = Bench(best)
    assert bench.rate(name, 1, UNMEASURED) > 0
    assert bench.rate(name, 8, Reading(1, 0, 0)) > 0


@pytest.mark.parametrize("reading", [*ONE, *SEVERAL])
def test_stacked_products_are_those_of_one_matrix(best, reading):
    m = matrix(best, "q4_k", 16 * 6 + 3, 512)
    for n in (1, 9):
        x, given = activations(n, 512), aligned(16 * 16 * BYTES["k8"])
        header, y = np.array([n], np.int64), np.zeros((n, m.rows), np.float32)
        best["prepare.k8"](header.ctypes.data, x=x, stride=512, cols=512, out=given, count=0, per=8)
        best["stacked.q4_k"](
            header.ctypes.data, w=np.array([m.held.ctypes.data]), members=1, x=given, x_each=0,
            token=16 * BYTES["k8"], by_token=0, lists=0, tokens=0, y=y, y_each=0, stride=m.rows,
            bias=0, bias_each=0, cols=512, rows=m.rows, **reading._asdict(),
        )  # fmt: skip
        np.testing.assert_array_equal(y, product(best, m, x))


CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
stepping\t: 1
cache size\t: 1024 KB

processor\t: 1
model name\t: another
"""


def test_a_processor_is_named_by_all_that_the_system_says(tmp_path):
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    assert processor(tmp_path) == "AMD EPYC, AuthenticAMD, 25, 17, 1, 1024 KB"
    (tmp_path / "cpuinfo").write_text("CPU implementer\t: 0x41\nCPU part\t: 0xd40\n")
    assert processor(tmp_path) == "0x41, 0xd40"
    assert processor(tmp_path / "none") == ""


def test_a_recorded_product_reads_as_was_chosen():
    eager = Eager()
    way = Reading(1, 3072, 4096)
    eager.ops.readings = {"linear.f32": way}
    w = torch.from_numpy(activations(24, 64))
    x = torch.from_numpy(activations(3, 64, seed=2))
    packed = Packed(w.numpy().view(np.uint8), "F32", (24, 64))
    y = eager.linear(x, eager.matrix([packed]))
    (call,) = (c for c in eager.recorder.entries if c.kernel == "linear.f32")
    assert Reading(*(call.fields[name] for name in Reading._fields)) == way
    torch.testing.assert_close(y, x @ w.T)
    eager.close()


def test_people_see_what_was_measured(tmp_path, monkeypatch):
    """Of the kernels of this model's formats."""
    model = tiny.write_packed_gguf(tmp_path / "m.gguf", ["IQ2_XS", "TQ1_0"])
    settings = Settings(model=str(model), backend="cpu", cache_dir=str(tmp_path))
    assert report(settings)["kernels"]["reads"] == {}
    monkeypatch.setenv(readings.VARIABLE, "1:0:2048")  # asked for before anything was measured
    unmeasured = report(settings)
    assert "linear.iq2" in unmeasured["kernels"]["reads"]
    assert ("", "  linear.iq2 reads 1:0:2048, which was not measured") in list(rows(unmeasured))
    monkeypatch.delenv(readings.VARIABLE)
    where = Kept(isa.choose(), cache_dir=str(tmp_path))
    where._path.parent.mkdir(parents=True)
    where.add(Fake(ZEN)(["linear.iq2", "linear.q4_0"]))
    found = report(settings)
    (one,) = found["kernels"]["reads"].values()
    assert (one["held"], one["way"], one["gb_s"]["4:2048"]) == ("iq2", "1:0:4096", 17.4)
    line = "  linear.iq2 reads 1:0:4096: 32.5 GB/s with one token, 10.0 with 8"
    assert ("", line) in list(rows(found))
    monkeypatch.setenv(readings.VARIABLE, "4:2048:next")
    assert report(settings)["kernels"]["reads"]["linear.iq2"]["way"] == "4:2048:next"
    monkeypatch.setenv(readings.VARIABLE, "fast")
    with pytest.raises(UsageError, match="RBEE_CPU_READING='fast' is not a way to read"):
        report(settings)
