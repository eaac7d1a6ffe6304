"""`verify` as a person runs it: equal, broken, unusable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.exceptions import Exit
from safetensors.torch import load_file, save_file

from rbee_worker.cli.app import app
from tests import mmproj, pairs, seeing, tiny
from tests.archs import ARCHS, Arch, oracle, write_checkpoint, write_gguf
from tests.moondream import VISUAL

Run = Callable[..., tuple[int, str, str]]
SOME = [
    a
    for a in ARCHS
    if a.id in ("llama3", "gemma2", "falcon-40b", "mixtral", "phi", "mpt-storywriter", "chatglm")
]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("RBEE_THREADS", "1")

    def call(*args: str) -> tuple[int, str, str]:
        try:
            code = app(["verify", *map(str, args)], standalone_mode=False)
        except Exit as e:
            code = e.exit_code
        said = capsys.readouterr()
        return code or 0, said.out, said.err

    return call


def broken(folder: Path, name: str) -> Path:
    """One tensor of a checkpoint a little off."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = tensors[name] * 1.01
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("arch", SOME, ids=[a.id for a in SOME])
def test_families_are_equal(arch: Arch, run: Run, tmp_path: Path) -> None:
    code, out, _ = run(write_checkpoint(arch, tmp_path / "model"))
    assert code == 0, out
    assert "equal within 0.0001" in out
    if arch.gguf_arch is not None:
        path = write_gguf(arch, oracle(arch), tmp_path / "model.gguf")
        code, out, _ = run(path, "--json")
        found: dict[str, Any] = json.loads(out)
        assert code == 0
        assert found["ok"] is True
        assert found["logits"]["error"] < 1e-4
        assert found["first_differing"] is None
        assert len(found["steps"]) == 3 + 2


def equal(run: Run, path: Path, *args: str) -> list[str]:
    """The names of the steps of a comparison in which everything is equal."""
    code, out, err = run(path, "--json", *args)
    found = json.loads(out or "{}")
    assert (code, found.get("ok")) == (0, True), out + err
    return [step["name"] for step in found["steps"]]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("flan", "safetensors"),
        *(pytest.param(n, k, marks=pytest.mark.slow) for n, k in (
            ("t5", "safetensors"), ("near", "safetensors"), ("mt5", "safetensors"),
            ("umt5", "safetensors"), ("t5", "gguf"), ("flan", "gguf"), ("umt5", "gguf"),
        )),
    ],
)  # fmt: skip
def test_an_encoder_and_its_decoder_are_equal(
    name: str, kind: str, run: Run, tmp_path: Path
) -> None:
    if kind == "gguf":
        path = pairs.write_gguf(name, tmp_path / "model.gguf")
    else:
        path = pairs.write(name, tmp_path)
    steps = equal(run, path, "--tokens", "40")
    assert steps[:5] == ["source", "reader 0", "reader 1", "reader 2", "source rows"]
    assert steps[5:7] == ["embedding", "layer 0"]
    if name in ("flan", "umt5"):
        equal(run, path, "--tokens", "40", "--backend", "cpu", "--exact-activations")


def test_a_broken_reader_is_found(run: Run, tmp_path: Path) -> None:
    good = pairs.write("flan", tmp_path / "good")
    name = "encoder.block.1.layer.0.SelfAttention.v.weight"
    bad = broken(pairs.write("flan", tmp_path / "bad"), name)
    code, out, _ = run(bad, "--against", good, "--tokens", "40")
    assert code == 1
    assert "reader 1 is the first that differs" in out
    assert [line.split("  ")[0] for line in out.splitlines() if "<-" in line] == ["reader 1"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("moondream", "safetensors"),
        *(pytest.param(n, k, marks=pytest.mark.slow) for n, k in (
            ("smolvlm", "safetensors"), ("idefics3", "safetensors"), ("gemma3-near", "safetensors"),
            ("moondream-1", "safetensors"), ("smolvlm", "gguf"), ("gemma3", "gguf"),
            ("moondream", "gguf"),
        )),
    ],
)  # fmt: skip
def test_a_model_that_reads_pictures_is_equal(
    name: str, kind: str, run: Run, tmp_path: Path
) -> None:
    path = mmproj.write(name, tmp_path)[0] if kind == "gguf" else seeing.write(name, tmp_path)
    assert equal(run, path)[:2] == ["picture", "embedding"]
    if name != "idefics3":
        assert equal(run, path, "--backend", "cpu", "--exact-activations")[0] == "picture"
    if kind == "gguf":
        assert equal(run, path, "--mmproj", "none")[0] == "embedding"


def test_a_broken_tower_is_found(run: Run, tmp_path: Path) -> None:
    good = seeing.write("moondream", tmp_path / "good")
    bad = broken(seeing.write("moondream", tmp_path / "bad"), f"{VISUAL}.blocks.1.mlp.fc2.weight")
    code, out, _ = run(bad, "--against", good)
    assert code == 1
    assert "picture is the first that differs" in out
    text, tower = mmproj.write("moondream", tmp_path)
    tower.unlink()
    code, _, err = run(good, "--against", text)
    assert (code, "has no tower to compare pictures with" in err) == (3, True)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.1.self_attn.v_proj.weight", "layer 1"),
        ("model.layers.0.mlp.down_proj.weight", "layer 0"),
        ("lm_head.weight", "logits"),
        ("model.embed_tokens.weight", "embedding"),
    ],
)
def test_a_broken_weight_is_found(name: str, layer: str, run: Run, tmp_path: Path) -> None:
    """Against the original; layers after it, given right states, are right."""
    good = tiny.write_safetensors(tmp_path / "good")
    bad = broken(tiny.write_safetensors(tmp_path / "bad"), name)
    code, out, _ = run(bad, "--against", good)
    assert code == 1
    assert f"{layer} is the first that differs" in out
    assert f"worst: {layer}" in out
    assert [line.split("  ")[0] for line in out.splitlines() if "<-" in line] == [layer]
    code, out, _ = run(bad, "--against", good, "--json")
    assert code == 1
    assert json.loads(out)["first_differing"] == layer
    code, out, _ = run(bad, "--against", good, "--tolerance", "0.5")
    assert code == 0


def test_a_weight_that_is_no_number_is_found(run: Run, tmp_path: Path) -> None:
    good = tiny.write_safetensors(tmp_path / "good")
    bad = tiny.write_safetensors(tmp_path / "bad")
    tensors = load_file(bad / "model.safetensors")
    tensors["model.layers.1.input_layernorm.weight"][3] = float("nan")
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    code, out, _ = run(bad, "--against", good)
    assert code == 1
    assert "layer 1 is the first that differs" in out


def test_half_precision_has_its_own_tolerance(run: Run, tmp_path: Path) -> None:
    path = tiny.write_safetensors(tmp_path / "model")
    code, out, _ = run(path, "--dtype", "bf16")
    assert code == 0, out
    assert "equal within 0.05" in out
    assert run(path, "--dtype", "bf16", "--tolerance", "1e-5")[0] == 1


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("--tokens", "300"), 2, "use 2..256"),
        (("--against", "/nowhere"), 3, "/nowhere"),
    ],
)
def test_unusable(args: tuple[str, ...], code: int, says: str, run: Run, tmp_path: Path) -> None:
    got, _, err = run(tiny.write_safetensors(tmp_path / "model"), *args)
    assert (got, says in err) == (code, True), err


def test_weights_that_transformers_would_make_up_are_refused(run: Run, tmp_path: Path) -> None:
    """It fills what a file lacks with random numbers."""
    good = tiny.write_safetensors(tmp_path / "good")
    part = tiny.write_safetensors(tmp_path / "part", without=("model.layers.1.mlp.up_proj.weight",))
    code, out, err = run(good, "--against", part)
    assert (code, out) == (3, "")
    assert "model.layers.1.mlp.up_proj.weight" in err


@pytest.mark.slow
def test_the_default_model_is_equal(run: Run) -> None:
    code, out, _ = run("smollm2", "--json")
    found = json.loads(out)
    assert code == 0, out
    assert len(found["steps"]) == 30 + 2
    assert found["logits"]["same_token"] == 1.0
