"""A model with adapters gives what transformers gives with scale * B A in its weights."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.config import Settings
from rbee_worker.loading.preflight import outline_of, preflight
from rbee_worker.ops.adapted import Site, Sites
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.cpu.backend.model import kernel_names
from rbee_worker.ops.cpu.backend.outline import OutlineOps
from rbee_worker.ops.cpu.backend.warm import recording_shape
from tests.adapters.made import (
    Adapted,
    expected,
    factors,
    inside_transformers,
    merged,
    places,
    write_gguf_adapter,
    write_peft,
)
from tests.archs import ARCHS, Arch, oracle, write_gguf, write_safetensors

ROWS = {arch.id: arch for arch in ARCHS}
FAMILIES = ("llama", "phi3-short", "mixtral")  # grouped heads, fused q k v, experts
BACKENDS = ("reference", "cpu")
WITHIN = 1e-4  # of the largest logit


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


def off(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, as a share of the largest logit."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def safetensors_of(arch: Arch, folder: Path) -> Path:
    path = folder / arch.id
    return path if path.exists() else write_safetensors(oracle(arch), path)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_different_adapters_in_one_step(name: str, backend: str, folder: Path) -> None:
    arch = ROWS[name]
    base = safetensors_of(arch, folder)
    shapes = places(base)
    all_maps = factors(shapes, 3, seed=1)
    some = factors(shapes, 7, ends=("q_proj", "v_proj", "qkv_proj"), seed=2)
    paths = {
        "all": write_peft(folder / f"{name}-all", all_maps),
        "some": write_peft(folder / f"{name}-some", some, use_rslora=True, lora_alpha=5),
    }
    model = Adapted(base, paths, backend)
    order = ["some", "", "all", "some", ""]
    found = dict(zip(order, together := model.logits(order), strict=True))
    plain = expected(oracle(arch))
    assert off(found[""], plain) < WITHIN
    assert off(found["all"], expected(merged(arch, all_maps, 2.0))) < WITHIN
    assert off(found["some"], expected(merged(arch, some, 5 / 7**0.5))) < WITHIN
    assert off(found["all"], plain) > 0.05, "it changes nothing"
    assert off(found["some"], plain) > 0.05, "it changes nothing"
    for name, rows in zip(order[:3], together, strict=False):  # alone, in pieces: the same bits
        assert np.array_equal(model.logits([name])[0], rows)
        assert np.array_equal(model.logits([name, "all"], chunk=15)[0], rows)
    without = Adapted(base, {}, backend)
    assert np.array_equal(without.logits([""])[0], found[""])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["llama", "phi3-short"])
def test_files_of_both_kinds_for_bases_of_both_kinds(name: str, backend: str, folder: Path) -> None:
    """Rows of q and k are in another order in a llama's GGUF files."""
    arch = ROWS[name]
    base = safetensors_of(arch, folder)
    packed = write_gguf(arch, oracle(arch), folder / f"{name}-{backend}.gguf")
    pairs = factors(places(base), 4, seed=3)
    paths = {
        "peft": write_peft(folder / f"{name}-both", pairs, lora_alpha=6),
        "gguf": write_gguf_adapter(folder / f"{name}-{backend}-lora.gguf", arch, pairs, 6.0),
    }
    want = expected(merged(arch, pairs, 1.5))
    for file in (base, packed):
        found = Adapted(file, paths, backend).logits(["peft", "gguf"])
        assert off(found[0], want) < WITHIN
        assert np.array_equal(found[0], found[1])


def test_packed_weights_stay_packed(folder: Path) -> None:
    arch = ROWS["llama"]
    packed = write_gguf(arch, oracle(arch), folder / "q8.gguf", gguf.GGMLQuantizationType.Q8_0)
    pairs = factors(places(packed), 4, seed=4)
    model = Adapted(packed, {"a": write_peft(folder / "on-q8", pairs)}, "cpu")
    plain, adapted = model.logits(["", "a"])
    assert np.array_equal(plain, Adapted(packed, {}, "cpu").logits([""])[0])
    assert off(adapted, expected(merged(arch, pairs, 2.0))) < 0.05  # 8-bit weights, activations
    assert off(adapted, plain) > 0.2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [np.float16, "bf16"])
def test_factors_in_16_bits_are_used_as_they_are(kind, backend: str, folder: Path) -> None:
    arch = ROWS["llama"]
    base = safetensors_of(arch, folder)
    pairs = factors(places(base), 5, seed=5)
    cut = torch.bfloat16 if kind == "bf16" else torch.float16
    rounded = {
        name: tuple(torch.from_numpy(x).to(cut).float().numpy() for x in pair)
        for name, pair in pairs.items()
    }
    path = write_peft(folder / f"half-{cut}-{backend}".replace("torch.", ""), rounded)
    file = path / "adapter_model.safetensors"
    save_file({n: t.to(cut) for n, t in load_file(file).items()}, file)
    model = Adapted(base, {"a": path}, backend)
    assert off(model.logits(["a"])[0], expected(merged(arch, rounded, 2.0))) < WITHIN
    assert model.infos[0].nbytes == model.plan.adapters[0].nbytes
    full = Adapted(base, {"a": write_peft(folder / "full", pairs)}, backend)
    assert full.infos[0].nbytes == 2 * model.infos[0].nbytes


class Used(OutlineOps):
    """Remembers which sites a recording uses."""

    def __init__(self, sites: Sites) -> None:
        super().__init__(sites=sites)
        self.used: set[int] = set()

    def adapted(self, y: Array, x: Array, site: Site, batch: Batch) -> Array:
        self.used.add(site.number)
        return super().adapted(y, x, site, batch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS, ids=[a.id for a in ARCHS])
def test_every_place_that_takes_an_adapter_applies_it(arch: Arch, tmp_path: Path) -> None:
    """A map that a family uses in a way of its own would take an adapter and do nothing with it."""
    ckpt = open_checkpoint(str(write_safetensors(oracle(arch), tmp_path)))
    settings = Settings(backend="cpu", lora_slots=1)
    plan = preflight(ckpt, settings)
    sites = Sites(1, 4)
    ops = Used(sites)
    outline = outline_of(ckpt, plan.model.context)
    kernel_names(outline.build(ops), ops, recording_shape(settings, "f32", 256))
    assert ops.used == {site.number for site in sites}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS, ids=[a.id for a in ARCHS])
def test_every_architecture(arch: Arch, tmp_path: Path) -> None:
    """All maps of every family that transformers has under the same names."""
    base = write_safetensors(oracle(arch), tmp_path / "base")
    weights = {name for name, _ in oracle(arch).named_parameters()}
    theirs = {name: inside_transformers(name, weights) for name in places(base)}
    shapes = {n: s for n, s in places(base).items() if f"{theirs[n]}.weight" in weights}
    assert shapes
    pairs = factors(shapes, 2, seed=6)
    named = {theirs[name]: pair for name, pair in pairs.items()}
    model = Adapted(base, {"a": write_peft(tmp_path / "a", named)}, "reference")
    plain, adapted = model.logits(["", "a"])
    assert off(adapted, expected(merged(arch, pairs, 2.0))) < 3e-4
    assert off(adapted, plain) > 0.01
