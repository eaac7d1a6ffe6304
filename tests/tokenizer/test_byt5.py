"""ByT5's tokenizer against transformers' ByT5Tokenizer, from the files it has been saved in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ByT5Tokenizer

import rbee_worker
from rbee_worker.checkpoint.reading import read_json
from rbee_worker.checkpoint.tokenizer_files import tokenizer_files
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.tokenizer.stream import Detokenizer
from tests import pairs
from tests.tokenizer.builders import Source
from tests.tokenizer.texts import TEXTS

TRICKY = [
    "",
    "a",
    " lead and trail ",
    "hé <extra_id_0> z",
    "<extra_id_1>  <extra_id_0><extra_id_12>",
    "a </s> b",
    "x</s>",
    "</s></s>",
    "<pad> q <unk>\n b",
    "\x85</s>\u00a0c",
    "<extra_id_",
]


def token(text: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    return {"content": text, **flags, "__type": "AddedToken"}


NAMED = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SENTINELS = [f"<extra_id_{n}>" for n in range(125)]
# As published (tokens as objects), with bare texts, without sentinels, with another word.
OLD: dict[str, dict[str, Any]] = {
    "objects": {
        **{name: token(text) for name, text in NAMED.items()},
        "extra_ids": 125,
        "additional_special_tokens": SENTINELS,
    },
    "texts": {**NAMED, "extra_ids": 125, "additional_special_tokens": SENTINELS},
    "counted": {"extra_ids": 3},
    "none": {"extra_ids": 0, "eos_token": "<end>"},
}


def write(folder: Path, form: str) -> Path:
    folder.mkdir()
    if form == "saved":
        ByT5Tokenizer(extra_ids=7).save_pretrained(folder)
        return folder
    config = {"tokenizer_class": "ByT5Tokenizer", **OLD[form]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if form == "objects":
        named = {name: config[name] for name in NAMED}
        (folder / "special_tokens_map.json").write_text(json.dumps(named))
    return folder


def ours(folder: Path) -> Tokenizer:
    config = read_json(folder / "tokenizer_config.json")
    return load_tokenizer(Source(files=tokenizer_files(folder), tokenizer_config=config))


@pytest.mark.filterwarnings("ignore:This sequence already has")
@pytest.mark.parametrize("form", ["saved", *OLD])
def test_ids_are_those_of_transformers(form: str, tmp_path: Path) -> None:
    folder = write(tmp_path / form, form)
    theirs, found = ByT5Tokenizer.from_pretrained(folder), ours(folder)
    for text in [*TRICKY, *TEXTS]:
        assert found.encode(text) == theirs.encode(text), repr(text)
        plain = theirs.encode(text, add_special_tokens=False)
        assert found.encode(text, add_special=False) == plain, repr(text)
    assert found.vocab_size == len(theirs)
    assert found.special_ids == {*theirs.all_special_ids}
    names = [theirs.convert_ids_to_tokens(i) for i in sorted(found.special_ids)]
    assert names == [found.token_text(i) for i in sorted(found.special_ids)]


def test_texts_come_back(tmp_path: Path) -> None:
    """Byte by byte in a stream, whose characters are whole; specials read literally are bytes."""
    folder = write(tmp_path / "saved", "saved")
    theirs, found = ByT5Tokenizer.from_pretrained(folder), ours(folder)
    for text in TEXTS:
        ids = theirs.encode(text)
        assert found.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == text
        stream = Detokenizer(found)
        assert "".join(map(stream.push, ids)) + stream.flush() == text
    literal = found.encode("<pad>", add_special=False, parse_special=False)
    assert literal == [b + 3 for b in b"<pad>"]


def test_a_t5_checkpoint_of_bytes_answers_as_in_transformers(tmp_path: Path) -> None:
    path = pairs.write("flan", tmp_path / "byt5")
    ByT5Tokenizer(extra_ids=0).save_pretrained(path)
    prompt = "Fill: cafe"
    ids = ByT5Tokenizer.from_pretrained(path)(prompt, return_tensors="pt").input_ids
    assert int(ids.max()) < pairs.VOCAB
    generate: Any = pairs.oracle("flan").generate
    want = generate(ids, max_new_tokens=12, do_sample=False)[0]
    with rbee_worker.load(str(path), backend="reference") as model:
        found = model.generate(prompt, max_tokens=12, temperature=0.0)
    assert found.usage.prompt_tokens == len(ids[0])
    assert torch.equal(want[1 : 1 + len(found.token_ids)], torch.tensor(found.token_ids))
