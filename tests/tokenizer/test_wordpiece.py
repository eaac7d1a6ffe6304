"""BERT's kind of tokenizer against the library: decoding piece by piece, pairs, truncation."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from rbee_worker.checkpoint.tokenizer_files import tokenizer_files
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.tokenizer.pieces import decoding_of
from rbee_worker.tokenizer.stream import Detokenizer
from rbee_worker.tokenizer.wordpiece import around
from tests import encoders
from tests.tokenizer.builders import Source

PIECES = (
    *("do", "not", "##s", "'", "s", "'s", "n't", "n", "t", "'m", "do not", "'ve", "re", "bee"),
    *(".", ",", "?", "!", "a.b", "##.", "##'", "[CLS]", "x y", " . "),
)
WORDS = (
    "the",
    "bee",
    "hums",
    "unheardof",
    "Bee's",
    "日本",
    "hm,hm",
    "???",
    "[SEP]",
    "é",
    "x" * 120,
)


@pytest.mark.parametrize("cleanup", [True, False])
def test_decoding_is_the_librarys(cleanup: bool) -> None:
    library = decoders.WordPiece(cleanup=cleanup)
    ours = decoding_of({"type": "WordPiece", "prefix": "##", "cleanup": cleanup})
    rng = random.Random(1)
    for _ in range(5000):
        first, *rest = rng.choices(PIECES, k=rng.randint(1, 6))
        got = ours.token_bytes(first, first=True) + b"".join(map(ours.joined, rest))
        assert got.decode() == library.decode([first, *rest])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path]:
    folder = tmp_path_factory.mktemp("wordpiece")
    encoders.write_tokenizer(folder)
    files = {name: folder / name for name in ("tokenizer.json", "tokenizer_config.json")}
    return load_tokenizer(Source(files=files)), files["tokenizer.json"]


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def test_streamed_text_is_the_decoded_one(both: tuple[Tokenizer, Path]) -> None:
    ours, path = both
    library, rng = Backend.from_file(str(path)), random.Random(2)
    for words in range(1, 30):
        ids = ours.encode(text(rng, words))
        stream = Detokenizer(ours, skip_special=True)
        got = "".join(map(stream.push, ids)) + stream.flush()
        assert got == ours.decode(ids) == library.decode(ids)


@pytest.mark.parametrize("most", [3, 4, 5, 7, 10, 31, 32, 200])
def test_texts_and_pairs_are_cut_as_the_library_does(
    both: tuple[Tokenizer, Path], most: int
) -> None:
    """Of two, the longer one first; special tokens stay."""
    ours, path = both
    library, rng = Backend.from_file(str(path)), random.Random(most)
    for _ in range(200):
        first, second = text(rng, rng.randint(0, 9)), text(rng, rng.randint(0, 9))
        for pair in (None, second):
            library.no_truncation()
            whole = len(library.encode(first, pair).ids)
            library.enable_truncation(most, strategy="longest_first")
            want = library.encode(first, pair)
            got = ours.encode_texts(first, pair, most=most)
            assert got.ids == want.ids
            assert got.whole == whole
            kinds = [int(bool(got.second) and n >= got.second) for n in range(len(got.ids))]
            assert kinds == want.type_ids


@pytest.mark.parametrize("name", ["BertTokenizer", "DistilBertTokenizerFast", ""])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"strip_accents": False},
        {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
    ],
    ids=str,
)
def test_letters_are_treated_as_transformers_class_does(
    said: dict[str, Any], lower: bool, name: str, tmp_path: Path
) -> None:
    """Whatever the normalizer in tokenizer.json says."""
    letters = "abcdeABCDEé日"
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    pieces = [*names, *letters, *(f"##{c}" for c in letters)]
    made = Backend(models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lower)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    around(made, ("[CLS]", 2), ("[SEP]", 3))
    made.add_special_tokens([*names])
    made.save(str(tmp_path / "tokenizer.json"))
    config, said = {"model_type": "bert"}, said | ({"tokenizer_class": name} if name else {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    files = tokenizer_files(tmp_path)
    ours = load_tokenizer(Source(config=config, tokenizer_config=said, files=files))
    hf = AutoTokenizer.from_pretrained(tmp_path)
    for sample in ("a Bad Éé日日Dé [MASK]", "CAB"):
        assert ours.encode(sample) == hf(sample)["input_ids"]
    same = lower == said.get("do_lower_case", True) and not {*said} & {"strip_accents"}
    assert (ours.warnings == ()) == same
