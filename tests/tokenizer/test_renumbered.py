"""Vocabularies without a tokenizer.json whose class has other ids than the file, or more tokens,
and tokens around a text: as transformers' classes read the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rbee_worker.checkpoint.tokenizer_files import tokenizer_files
from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.load import load_tokenizer
from tests.tokenizer.builders import Source, train_byte_level, train_sentencepiece
from tests.tokenizer.published import PUBLISHED
from tests.tokenizer.texts import SPECIALS, TEXTS

FAIRSEQ = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
SENTINELS = [f"<extra_id_{n}>" for n in range(30)]

# Of each: config.json, tokenizer_config.json, the name of the vocabulary, and how it was trained.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], str, dict[str, Any]]] = {
    "XLM-RoBERTa": (
        {"model_type": "xlm-roberta"},
        {"tokenizer_class": "XLMRobertaTokenizer"},
        "sentencepiece.bpe.model",
        FAIRSEQ,
    ),
    "XLM-RoBERTa by its type": (
        {"model_type": "xlm-roberta"},
        {},
        "sentencepiece.bpe.model",
        FAIRSEQ,
    ),
    "XLM-RoBERTa's of a BERT": (
        {"model_type": "bert"},
        {"tokenizer_class": "XLMRobertaTokenizerFast", "mask_token": "<mask>"},
        "sentencepiece.bpe.model",
        FAIRSEQ,
    ),
    "CamemBERT": (
        {"model_type": "camembert"},
        {"tokenizer_class": "CamembertTokenizer"},
        "sentencepiece.bpe.model",
        FAIRSEQ,
    ),
    "T5 1.1": (
        {"model_type": "t5"},
        {
            "tokenizer_class": "T5Tokenizer",
            "extra_ids": 30,
            "additional_special_tokens": SENTINELS,
            "eos_token": "</s>",
        },
        "spiece.model",
        T5,
    ),
    "T5 by its type": ({"model_type": "t5"}, {}, "spiece.model", T5),
    "mT5": (
        {"model_type": "mt5"},
        {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "additional_special_tokens": None},
        "spiece.model",
        T5,
    ),
}
SAMPLES = (
    *(text for text in TEXTS if text.isprintable()),
    "a <mask> of <extra_id_0>, <extra_id_29>.<extra_id_1>",
    "</s> <pad> x <s>",
)


def source(folder: Path, config: dict[str, Any], tokenizer_config: dict[str, Any]) -> Source:
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer_config:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return Source(config=config, tokenizer_config=tokenizer_config, files=tokenizer_files(folder))


def compare(ours: Tokenizer, folder: Path) -> None:
    hf = AutoTokenizer.from_pretrained(folder)
    assert ours.vocab_size == len(hf)
    for text in SAMPLES:
        assert ours.encode(text) == hf(text)["input_ids"], text
    found = ours.encode_texts("the dog", "a fox", most=100)
    assert found.ids == hf("the dog", "a fox")["input_ids"]
    if "Roberta" in type(hf).__name__:
        assert found.second == 0  # two texts are not told apart


@pytest.mark.parametrize("name", KINDS)
def test_ids_are_those_of_the_class(name: str, tmp_path: Path) -> None:
    config, tokenizer_config, file, ids = KINDS[name]
    options = {"byte_fallback": False, "character_coverage": 1.0, "vocab_size": 300, **ids}
    (tmp_path / file).write_bytes(train_sentencepiece("unigram", **options))
    compare(load_tokenizer(source(tmp_path, config, tokenizer_config)), tmp_path)


@pytest.mark.parametrize("config", [{"model_type": "roberta"}, {"model_type": "t5"}])
def test_roberta_from_its_two_files(config: dict[str, Any], tmp_path: Path) -> None:
    """As CodeT5 and older RoBERTas publish it."""
    names = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    made = train_byte_level(*PUBLISHED["gpt-2"])["model"]
    pieces = [*names[:4], *(p for p in made["vocab"] if p not in SPECIALS), names[4]]
    (tmp_path / "vocab.json").write_text(json.dumps({p: n for n, p in enumerate(pieces)}))
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(pair) for pair in made["merges"]))
    said = {"tokenizer_class": "RobertaTokenizer"}
    compare(load_tokenizer(source(tmp_path, config, said)), tmp_path)


def test_a_vocabulary_without_tokens_around_texts_is_refused(tmp_path: Path) -> None:
    options = {**FAIRSEQ, "bos_id": -1, "eos_id": -1, "byte_fallback": False, "vocab_size": 300}
    data = train_sentencepiece("unigram", **options)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(data)
    made = source(tmp_path, {"model_type": "camembert"}, {})
    with pytest.raises(CheckpointError, match="lacks the tokens around a text"):
        load_tokenizer(made)
