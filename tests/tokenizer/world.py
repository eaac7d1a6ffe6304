"""A small vocabulary of RWKV's kind, and its files as they are published."""

from __future__ import annotations

import random
from pathlib import Path

import gguf

from tests.tokenizer.builders import write_gguf
from tests.tokenizer.texts import CORPUS

END = "<|rwkv_tokenizer_end_of_text|>"


def tokens(more: int = 400) -> dict[int, bytes]:
    """By id from 1: every byte, then pieces of a corpus, which may begin or end inside of a
    character, in the order of their length."""
    rng, whole = random.Random(5), "\n".join(CORPUS).encode()
    found = {bytes((b,)) for b in range(256)}
    wanted = len(found) + more
    while len(found) < wanted:
        at, size = rng.randrange(len(whole)), rng.choice([2, 2, 3, 3, 4, 5, 8, 13])
        found.add(whole[at : at + size])
    found |= {b"\n\n", b"\n\nUser", b"'\"\\", b"'x", b'"x'}
    return dict(enumerate(sorted(found, key=lambda t: (len(t), t)), start=1))


def literal(token: bytes) -> str:
    """As the file has it: text where a token is text, else bytes."""
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)


def write_numbered(path: Path, vocabulary: dict[int, bytes]) -> Path:
    """rwkv_vocab_v20230424.txt"""
    lines = (f"{i} {literal(t)} {len(t)}" for i, t in vocabulary.items())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_listed(path: Path, vocabulary: dict[int, bytes]) -> Path:
    """vocab.txt of Hugging Face's RWKV 5 and 6."""
    lines = [repr(b"<s>"), *(repr(vocabulary[i]) for i in range(1, len(vocabulary) + 1))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_converted(path: Path, vocabulary: dict[int, bytes], **keys: object) -> object:
    """A GGUF file, as llama.cpp's converter writes it: the inside of a literal of bytes, and
    padding up to the rows of the model."""
    w = gguf.GGUFWriter(path, "rwkv7")
    w.add_tokenizer_model("rwkv")
    texts = [repr(vocabulary[i])[2:-1] for i in range(1, len(vocabulary) + 1)]
    padding = [f"[PAD{len(texts) + 1 + n}]" for n in range(3)]
    w.add_token_list(["<s>", *texts, *padding])
    w.add_token_types([3, *[1] * len(texts), *[5] * len(padding)])
    return write_gguf(w, path, {"bos_token_id": 0, "eos_token_id": 0, **keys})
