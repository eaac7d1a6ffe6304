"""candle's kind of GGUF file, with Hugging Face's names: the numbers of the safetensors that it was
made from, and what is said where something is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.weight_files import stamp
from rbee_worker.errors import CheckpointError
from rbee_worker.models import build_model
from rbee_worker.ops.reference.model import ReferenceModel
from rbee_worker.ops.reference.ops import ReferenceOps
from tests import pairs, seeing
from tests.archs import ARCHS, Arch, rwkv, write_checkpoint
from tests.archs.base import configured
from tests.checkpoint import candle, gguf_bytes
from tests.driver import Driver

# Those that candle has such files of: lmz/candle-gemma, -rwkv, -replit-code, -stablelm, -mistral.
IDS = ("recurrent-gemma", "rwkv5", "rwkv6", "mpt", "stablelm2-bias", "mistral")
# Heads of whole blocks: candle packs what else is a vector for each head.
WIDE = Arch("rwkv5-wide", rwkv.M5, configured(rwkv.C5, **{**rwkv.NONE, "head_size": 32}))
TOKENS = [int(t) for t in np.random.default_rng(5).integers(3, 211, 40)]


def logits(path: Path) -> torch.Tensor:
    driver = Driver(build_model(open_checkpoint(str(path)), ReferenceOps()))
    return driver.feed([(driver.start(TOKENS), len(TOKENS))])[0]


ROWS = [*(a for a in ARCHS if a.id in IDS), WIDE]


@pytest.mark.parametrize("arch", ROWS, ids=[a.id for a in ROWS])
def test_it_is_the_model_that_was_packed(arch: Arch, tmp_path: Path) -> None:
    folder = write_checkpoint(arch, tmp_path / "hf")
    file = candle.write(folder, tmp_path / "candle")
    ckpt, plain = open_checkpoint(str(file)), open_checkpoint(str(folder))
    assert (ckpt.kind, ckpt.gguf, ckpt.notes) == ("gguf", None, ())
    assert (ckpt.arch, ckpt.config) == (plain.arch, plain.config)
    got, want = logits(file), logits(candle.unpack(folder))
    assert ((got - want).norm() / want.norm()).item() < 1e-6


def test_every_row_that_is_named_exists() -> None:
    assert {a.id for a in ARCHS} >= {*IDS}


def test_t5(tmp_path: Path) -> None:
    folder = pairs.write("flan", tmp_path / "hf")
    file = candle.write(folder, tmp_path / "candle")
    ckpt, plain = open_checkpoint(str(file)), open_checkpoint(str(candle.unpack(folder)))
    assert (ckpt.arch, ckpt.config) == (plain.arch, plain.config)
    a, b = (build_model(c, ReferenceOps()) for c in (ckpt, plain))
    assert (a.n_parameters, a.notes) == (b.n_parameters, b.notes)


def test_moondream(tmp_path: Path) -> None:
    """candle's quantized one: q, k and v in one matrix, positions as those of a batch."""
    folder = seeing.write("moondream", tmp_path / "hf")
    file = candle.write(folder, tmp_path / "candle")
    ckpt, plain = open_checkpoint(str(file)), open_checkpoint(str(candle.unpack(folder)))
    assert (ckpt.arch, ckpt.config) == (plain.arch, plain.config)
    tile, prompt = seeing.pixels("moondream", 1, 4)[0], TOKENS
    found = []
    for one in (ckpt, plain):
        model = build_model(one, ReferenceOps())
        assert not model.skipped
        driver = Driver(model)
        text = driver.feed([(driver.start(prompt), len(prompt))])[0]
        found.append((ReferenceModel(model).see(tile), text))
    for got, want in zip(*found, strict=True):
        assert ((got - want).norm() / want.norm()).item() < 1e-6


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arch = next(a for a in ARCHS if a.id == "mistral")
    root = tmp_path_factory.mktemp("named")
    return candle.write(write_checkpoint(arch, root / "hf"), root / "candle")


def test_without_a_config_it_says_what_to_do(file: Path, tmp_path: Path) -> None:
    alone = shutil.copy(file, tmp_path / "alone.gguf")
    with pytest.raises(CheckpointError, match=r"no config\.json beside it\. Fix: put config\.json"):
        open_checkpoint(str(alone))


def test_a_config_that_changes_is_another_model(file: Path) -> None:
    before, at = stamp(file), file.parent / "config.json"
    said = json.loads(at.read_text())
    at.write_text(json.dumps({**said, "rope_theta": 500.0}))
    assert stamp(file) != before
    at.write_text(json.dumps(said))


def test_llama_cpps_names_without_metadata_are_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    entry = gguf_bytes.tensor("token_embd.weight", (32, 4))
    path.write_bytes(gguf_bytes.gguf([], [entry], bytes(512)))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match=r"no general\.architecture"):
        open_checkpoint(str(path))
