"""`rbee-worker warmup` as a person, or an image's build file, runs it."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.cli.app import app
from rbee_worker.config import Settings
from rbee_worker.loading.common_models import COMMON, common_models
from rbee_worker.ops.backend import Warmed
from rbee_worker.ops.cpu.shared import isa
from tests import further, tiny
from tests.outlines import needed

ROOT = Path(__file__).parents[2]
LINE = re.compile(
    r"(\w+): (\d+) kernels of (\d+) models?, (all there|(\d+) compiled in [\d.]+ s)  (.+)"
)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [n for n in os.environ if n.startswith("RBEE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RBEE_CACHE_DIR", str(tmp_path / "cache"))


def run(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "rbee_worker", *args],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def said(text: str) -> list[tuple[str, int, int, int, Path]]:
    """(instruction set, kernels, models, compiled now, folder) of each line."""
    found = []
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        name, kernels, models, _, compiled, folder = match.groups()
        found.append((name, int(kernels), int(models), int(compiled or 0), Path(folder)))
    return found


@pytest.mark.kernels
def test_a_models_kernels_are_there_for_its_first_start(tmp_path: Path) -> None:
    model = tiny.write_safetensors(tmp_path / "tiny")
    count = len(needed(open_checkpoint(str(model)), Settings(backend="cpu"), "f32"))
    ((name, kernels, models, compiled, folder),) = said(run("warmup", str(model)).stdout)
    assert (name, kernels, models, compiled) == (isa.names()[0], count, 1, count)
    assert len(list(folder.glob("*.o"))) == count
    assert said(run("warmup", str(model), "--backend", "cpu").stdout)[0][3] == 0
    args = ("generate", "--model", str(model), "--backend", "cpu", "--max-tokens", "2", "a")
    assert "Compiling" not in run(*args).stderr
    for file in folder.iterdir():
        file.unlink()
    assert f"Compiling {count} CPU kernels for this processor.\n" in run(*args).stderr


@pytest.mark.kernels
def test_other_instruction_sets(tmp_path: Path) -> None:
    model = str(tiny.write_safetensors(tmp_path / "tiny"))
    lines = said(run("warmup", "--isa", "all", model).stdout)
    assert [line[0] for line in lines] == list(isa.targets())
    assert len({line[4] for line in lines}) == len(lines)
    for _, kernels, models, compiled, folder in lines:
        assert kernels == compiled == len(list(folder.glob("*.o")))
        assert models == 1
    repeated = said(run("warmup", "--isa", lines[-1][0], "--isa", lines[0][0], model).stdout)
    assert [line[:4] for line in repeated] == [(*lines[n][:3], 0) for n in (-1, 0)]


@pytest.mark.kernels
def test_common_models() -> None:
    """What a Llama in one of the common formats needs is there, whichever it will be."""
    ((_, kernels, models, compiled, folder),) = said(run("warmup").stdout)
    assert (kernels, models) == (compiled, len(COMMON))
    there = {file.name.partition("-")[0] for file in folder.glob("*.o")}
    for ckpt in common_models():
        names = needed(ckpt, Settings(backend="cpu"), "f16")
        assert {n.partition("-")[0] for n in names} <= there


def test_what_a_worker_will_have_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kernels of adapters, and of the layer that drafts."""
    wanted: list[Sequence[str]] = []

    def compiled(names: Sequence[str], *_: object) -> Warmed:
        wanted.append(names)
        return Warmed("here", len(names), 0, 0.0, tmp_path)

    monkeypatch.setattr("rbee_worker.ops.cpu.backend.warm.compile_target", compiled)
    plain, glm = tiny.write_safetensors(tmp_path / "tiny"), further.glm().save(tmp_path / "glm")
    for model, args, more in (
        (plain, (), {}),
        (plain, ("--lora-slots", "1"), {"lora_slots": 1}),
        (glm, (), {}),
        (glm, ("--speculate", "mtp"), {"speculate": "mtp"}),
    ):
        app(["warmup", str(model), *args], standalone_mode=False)
        settings = Settings(backend="cpu", **more)
        assert wanted[-1] == sorted(needed(open_checkpoint(str(model)), settings, "f32"))
    sizes = [len(names) for names in wanted]
    assert sizes[0] < sizes[1]
    assert sizes[2] < sizes[3]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--isa", "z80"), "error: --isa z80 is not known here. Fix: use "),
        (("--backend", "reference"), "error: --backend reference has no kernels to compile. Fix: "),
        (("no/such/model",), "error: "),
    ],
)
def test_what_cannot_be_done_is_one_line(args: tuple[str, ...], message: str) -> None:
    error = run("warmup", *args, code=3 if "model" in args[0] else 2).stderr
    assert error.startswith(message)
    assert error.count("\n") == 1
