"""T5 as text: the prompt with its end token, the answer without a leading space, as transformers
reads and writes them; and what such a model is not asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, T5Tokenizer

import rbee_worker
from rbee_worker.errors import WrongModel
from tests import pairs

PROMPT = "hello world: the sound of a tree"
_WORDS = ["▁", "▁the", "▁a", "▁he", "llo", "▁wor", "ld", "▁to", "▁of", ":", ".", "▁tree", "ing"]
_WORDS += list("etonsihrdlucmfpgwyb")
SENTINELS = 40  # <extra_id_..>, which T5 has at the end of its vocabulary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 with a tokenizer: all ids but the last ones are pieces of text."""
    path = pairs.write("flan", tmp_path_factory.mktemp("t5"))
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(word, -3.0 - n / 10) for n, word in enumerate(_WORDS)]
    left = pairs.VOCAB - SENTINELS - len(vocabulary)
    vocabulary += [(f"▁{chr(0x4E00 + n)}", -9.0) for n in range(left)]
    T5Tokenizer(vocab=vocabulary, extra_ids=SENTINELS).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    with rbee_worker.load(str(folder), backend="reference") as loaded:
        yield loaded


def test_a_prompt_is_read_and_an_answer_written_as_transformers_does(
    folder: Path, model: Any
) -> None:
    tokenizer = T5Tokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    assert ids[0, -1] == 1
    generate: Any = pairs.oracle("flan").generate
    want = generate(ids, max_new_tokens=20, do_sample=False)[0]
    found = model.generate(PROMPT, max_tokens=20, temperature=0.0)
    assert found.usage.prompt_tokens == len(ids[0])
    text = tokenizer.decode(want, skip_special_tokens=True)
    assert found.text == text
    assert not text.startswith(" ")
    assert torch.equal(want[1 : 1 + len(found.token_ids)], torch.tensor(found.token_ids))


def test_an_answer_begins_with_the_token_of_generation_config(folder: Path, tmp_path: Path) -> None:
    """Which transformers uses before the config's own."""
    path = Path(shutil.copytree(folder, tmp_path / "t5"))
    said = {"decoder_start_token_id": 7, "eos_token_id": 1, "pad_token_id": 0}
    (path / "generation_config.json").write_text(json.dumps(said))
    ids = T5Tokenizer.from_pretrained(path)(PROMPT, return_tensors="pt").input_ids
    chosen = GenerationConfig.from_pretrained(path)
    generate: Any = pairs.oracle("flan").generate
    want = generate(ids, generation_config=chosen, max_new_tokens=8, do_sample=False)[0]
    assert want[0] == 7
    with rbee_worker.load(str(path), backend="reference") as loaded:
        found = loaded.generate(PROMPT, max_tokens=8, temperature=0.0)
    assert torch.equal(want[1 : 1 + len(found.token_ids)], torch.tensor(found.token_ids))


def test_it_gives_no_vectors_and_no_scores_of_prompts(model: Any) -> None:
    with pytest.raises(WrongModel, match="gives no vectors: its encoder reads prompts"):
        model.embed([PROMPT])
    with pytest.raises(WrongModel, match="no scores of prompts"):
        model.generate(PROMPT, max_tokens=3, echo=True, logprobs=2)
    with pytest.raises(WrongModel, match="no scores of prompts"):
        model.logits([5, 6, 1])
