"""Tensors against `tie_word_embeddings`: logits are those of the installed transformers."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.tied import EMBEDDINGS, HEAD, TIED_BY_DEFAULT
from rbee_worker.errors import CheckpointError
from rbee_worker.models import (
    ARCHITECTURES,
    PAIRS,
    based,
    bigcode,
    falcon,
    mpt,
    parts,
    state_spaces,
    t5,
)
from tests.driver import Driver
from tests.test_archs import error, load

TOKENS = [3, 17, 42, 5, 9, 60, 1, 0]
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"intermediate_size": 48, "num_key_value_heads": 2},
    "gemma": {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8},
    "gpt_bigcode": {"n_inner": 48, "multi_query": True, "n_positions": 64},
    "falcon": {"multi_query": True},
    "mpt": {"max_seq_len": 64},
    "mamba": {"state_size": 4},
}
SAVED = ("both, different", "both, equal", "the head alone", "the embedding alone")
SAID: tuple[bool | None, ...] = (True, False, None)


def written(folder: Path, arch: str, saved: str, said: bool | None) -> None:
    config = transformers.CONFIG_MAPPING[arch](
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        **SIZES[arch],
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    embedding = next(name for name in EMBEDDINGS if name in tensors)
    if saved == "both, equal":
        tensors[HEAD] = tensors[embedding]
    if saved == "the head alone":
        del tensors[embedding]
    if saved == "the embedding alone":
        del tensors[HEAD]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    values.pop("tie_word_embeddings", None)
    if said is not None:
        values["tie_word_embeddings"] = said
    (folder / "config.json").write_text(json.dumps(values))


def hf_logits(folder: Path) -> torch.Tensor | None:
    """transformers' logits; None where it makes up a tensor that is not in the files."""
    transformers.logging.set_verbosity(logging.CRITICAL)
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32
        )
    finally:
        transformers.logging.set_verbosity_warning()
    if info["missing_keys"]:
        return None
    with torch.inference_mode():
        return model(torch.tensor([TOKENS])).logits[0]


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("arch", SIZES)
def test_what_is_tied_is_what_transformers_ties(
    arch: str, saved: str, said: bool | None, tmp_path: Path
) -> None:
    written(tmp_path, arch, saved, said)
    want = hf_logits(tmp_path)
    if want is None:
        with pytest.raises(CheckpointError, match=r"is missing"):
            load(tmp_path)
        return
    ckpt, model = open_checkpoint(str(tmp_path)), load(tmp_path)
    driver = Driver(model)
    (got,) = driver.feed([(driver.start(TOKENS), len(TOKENS))])
    assert error(got, want) < 1e-4
    told = " ".join(ckpt.notes)
    tied = said or (said is None and arch in TIED_BY_DEFAULT)
    assert ("differ: each is used as it is" in told) == (tied and saved == "both, different")
    assert ("is used for both" in told) == (saved == "the head alone")


def test_what_is_tied_unsaid_is_what_transformers_ties_unsaid() -> None:
    names = (*ARCHITECTURES, *PAIRS)
    tied = {name for name in names if transformers.CONFIG_MAPPING[name]().tie_word_embeddings}
    assert tied == TIED_BY_DEFAULT


def test_every_place_of_an_embedding_is_known() -> None:
    names = (parts.NAMES, based.NAMES, bigcode.NAMES, falcon.NAMES, mpt.NAMES, state_spaces.NAMES)
    assert {*(f"{n.embed}.weight" for n in names), t5.EMBEDDING} == set(EMBEDDINGS)
    assert {f"{n.head}.weight" for n in names} == {HEAD}


def test_a_difference_in_the_last_row_is_one(tmp_path: Path) -> None:
    written(tmp_path, "llama", "both, equal", True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[HEAD] = tensors[HEAD].copy()
    tensors[HEAD][-1, -1] += np.float32(1)
    save_file(tensors, tmp_path / "model.safetensors")
    assert any("differ" in note for note in open_checkpoint(str(tmp_path)).notes)
