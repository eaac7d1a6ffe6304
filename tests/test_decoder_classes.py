"""Decoders with a head for classes, against transformers' own classes for that in float32."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.config import Settings
from rbee_worker.errors import CheckpointError
from rbee_worker.loading.load import load_engine
from rbee_worker.types import Pool
from rbee_worker.verify.compare import relative_error
from rbee_worker.verify.run import verify_report
from tests import rerankers
from tests.archs import ARCHS, VOCAB, Arch, oracle, write_checkpoint
from tests.outlines import planned_model
from tests.test_encoders import run, submit

BOUND = 5e-5  # norm of the difference over norm: sums that cancel, of three numbers
CLASSES = 3
HEAD = Pool(how="last", head=True)
BY_ID = {arch.id: arch for arch in ARCHS}
# Tied and untied embeddings, soft caps and factors of the logits, biases of the head, windows.
QUICK = ("llama", "qwen3", "gemma2")
SLOW = ("qwen2", "mistral", "gemma", "gemma3", "phi4-mini", "mixtral", "falcon-7b", "mpt", "jamba")


def classifier(arch: Arch, **changes: object) -> Arch:
    """The row with transformers' class for sequence classification."""
    name = arch.model.__name__.replace("ForCausalLM", "ForSequenceClassification")

    def config() -> transformers.PretrainedConfig:
        made = arch.config()
        for key, value in {"num_labels": CLASSES, "pad_token_id": 0, **changes}.items():
            setattr(made, key, value)
        return made

    kind = getattr(transformers, name)
    return dataclasses.replace(arch, id=f"{arch.id}-classes", model=kind, config=config)


def scores(arch: Arch, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = oracle(arch)(torch.tensor([ids])).logits[0].numpy()
    return found


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_scores_are_those_of_transformers(name: str, backend: str, tmp_path: Path) -> None:
    """Of ragged texts together, in steps that cut the longest one."""
    arch = classifier(BY_ID[name])
    path = write_checkpoint(arch, tmp_path)
    settings = Settings(model=str(path), backend=backend, threads=1, token_budget=48)  # type: ignore[arg-type]
    engine, info = load_engine(settings, lambda _: None)
    assert (info.purpose.task, info.purpose.activation) == ("classify", "softmax")
    assert info.purpose.labels == tuple(f"LABEL_{n}" for n in range(CLASSES))
    assert not [note for note in info.notes if "nothing reads" in note]
    rng = random.Random(3)
    given = [rng.choices(range(1, VOCAB), k=length) for length in (1, 9, 60)]
    for number, ids in enumerate(given):
        submit(engine, str(number), ids, HEAD)
    found = run(engine)
    for number, ids in enumerate(given):
        assert relative_error(found[str(number)], scores(arch, ids)) < BOUND


def test_verify_compares_scores(tmp_path: Path) -> None:
    """Of every row, from both kinds of files."""
    path = rerankers.write(tmp_path / "classes", classes=2)
    file = rerankers.write_gguf(rerankers.write(tmp_path / "answers"), tmp_path / "model.gguf")
    for each in (path, file):
        report = verify_report(Settings(model=str(each)))
        assert report["ok"]
        assert report["compared"] == "scores"
        assert "Qwen3ForSequenceClassification" in report["against"]["model"]


def test_a_head_that_does_not_fit(tmp_path: Path) -> None:
    folder = write_checkpoint(classifier(BY_ID["qwen3"]), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "good", "1": "bad"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"'score.weight' has shape \[3, 64\]"):
        planned_model(open_checkpoint(str(folder)), "f32")
