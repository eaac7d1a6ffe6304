"""Tokenizing a long text in a thread leaves the interpreter to the other threads."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path

import pytest
from tokenizers import AddedToken, models, normalizers, processors
from tokenizers import Tokenizer as Backend

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.tokenizer.load import load_tokenizer
from tests import tiny
from tests.tokenizer.builders import Source, train_byte_level
from tests.tokenizer.published import PUBLISHED
from tests.yardstick import ATTEMPTS, cpu_s

TEXT = "one two STOP three; " * 20_000


def test_others_run_while_a_long_text_is_tokenized(tmp_path: Path) -> None:
    tiny.write_safetensors(tmp_path)
    tokenizer = load_tokenizer(open_checkpoint(str(tmp_path)))
    found: list[list[int]] = []
    turns = 0
    for _ in range(ATTEMPTS):  # this thread may not have had a core for all of the time
        worker = threading.Thread(target=lambda: found.append(tokenizer.encode(TEXT)))
        worker.start()
        turns = 0
        while worker.is_alive():
            time.sleep(0)
            turns += 1
        if turns > 50:  # one or two, where the library holds the interpreter's lock
            break
    assert turns > 50
    assert tokenizer.decode(found[0], skip_special=True) == TEXT


@pytest.mark.parametrize("name", PUBLISHED)
def test_special_tokens_as_text_go_by_the_same_tokenizer(name: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(train_byte_level(*PUBLISHED[name])))
    ours = load_tokenizer(Source(files={"tokenizer.json": path}))
    assert ours._literal().to_str() == ours._backend.to_str()


def large(size: int = 30_000) -> Backend:
    """A vocabulary of many merges, with added tokens of both kinds."""
    rng = random.Random(7)
    pieces = [chr(c) for c in range(33, 127)]
    vocab, merges = {p: i for i, p in enumerate(pieces)}, []
    while len(vocab) < size:
        left, right = rng.choice(pieces), rng.choice(pieces)
        if len(left + right) < 12 and left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append((left, right))
            pieces.append(left + right)
    backend = Backend(models.BPE(vocab=vocab, merges=merges))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    backend.post_processor = processors.TemplateProcessing("$A <S2>", None, [("<S2>", size + 2)])
    backend.add_tokens(
        [AddedToken(f"<S{i}>", special=i % 2 == 0, normalized=i % 3 == 0) for i in range(100)]
    )
    return backend


def test_special_tokens_as_text_need_no_second_vocabulary(tmp_path: Path) -> None:
    """Reading it again takes the interpreter's lock for as long as the first time."""
    path = tmp_path / "tokenizer.json"
    large().save(str(path))
    text = path.read_text()
    ours = load_tokenizer(Source(files={"tokenizer.json": path}))
    read = cpu_s(lambda: Backend.from_str(text))
    assert cpu_s(lambda: ours.encode("a<S1><S2>", parse_special=False)) < read / 4
    again = Backend.from_str(text)
    again.encode_special_tokens = True
    for sample in ("a<S1><S2>", "<s0><S3>x", "A<S6><S4>"):
        assert ours.encode(sample, parse_special=False) == again.encode(sample).ids
