"""Tiny tokenizers trained here, and the files real ones come in."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import sentencepiece
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from rbee_worker.checkpoint.gguf import GgufFile
from rbee_worker.checkpoint.processor import NONE, ProcessorFiles
from rbee_worker.checkpoint.sentence import UNSAID, Sentence
from tests.tokenizer.texts import CORPUS, SPECIALS


@dataclass
class Source:
    """As much of a checkpoint as a tokenizer needs."""

    ref: str = "test"
    arch: str = "llama"
    config: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    tokenizer_config: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    gguf: Any = None
    processor: ProcessorFiles = NONE
    sentence: Sentence = UNSAID
    turn_stops: tuple[str, ...] = ()
    stages: Path | None = None
    tower: Path | None = None
    path: Path = Path("test")
    classifies: bool = False


def train_byte_level(
    pre_tokenizer: dict[str, Any],
    normalizer: dict[str, Any] | None,
    ignore_merges: bool,
    *,
    size: int = 700,
) -> dict[str, Any]:
    """A tokenizer.json with that pre-tokenizer, its merges learned through it."""
    backend = Tokenizer(models.BPE())
    shell = json.loads(backend.to_str())
    shell |= {"pre_tokenizer": pre_tokenizer, "normalizer": normalizer}
    switches = ("add_prefix_space", "trim_offsets", "use_regex")
    shell["decoder"] = {"type": "ByteLevel", **dict.fromkeys(switches, True)}
    backend = Tokenizer.from_str(json.dumps(shell))
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(CORPUS, trainer)
    # user-defined: found in the text, but not special
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    made: dict[str, Any] = json.loads(backend.to_str())
    made["model"]["ignore_merges"] = ignore_merges
    return made


def gguf_of_byte_level(path: Path, made: dict[str, Any], pre: str | None, **keys: Any) -> GgufFile:
    """The same tokenizer as a GGUF file, written as converters write it."""
    vocab: dict[str, int] = dict(made["model"]["vocab"])
    types = {}
    for token in made["added_tokens"]:
        vocab[token["content"]] = token["id"]
        types[token["content"]] = 3 if token["special"] else 4
    pieces = sorted(vocab, key=lambda piece: vocab[piece])
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(pieces)
    writer.add_token_types([types.get(piece, 1) for piece in pieces])
    writer.add_token_merges([" ".join(pair) for pair in made["model"]["merges"]])
    return write_gguf(writer, path, keys)


def write_gguf(writer: gguf.GGUFWriter, path: Path, keys: dict[str, Any]) -> GgufFile:
    for name, value in keys.items():
        key = name if "." in name else f"tokenizer.ggml.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile.open(path)


def train_sentencepiece(kind: str, **options: Any) -> bytes:
    """A SentencePiece model of `kind` (bpe, unigram) as its file's bytes."""
    out = io.BytesIO()
    settings = {
        "model_type": kind,
        "vocab_size": 700,
        "character_coverage": 0.98,
        "byte_fallback": True,
        "hard_vocab_limit": False,
        "minloglevel": 2,
        **options,
    }
    corpus = (line for text in CORPUS for line in text.splitlines() if line.strip("\0 "))
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=corpus, model_writer=out, **settings)
    return out.getvalue()


def gguf_of_sentencepiece(path: Path, data: bytes, model: str, **keys: Any) -> GgufFile:
    """The same model as a GGUF file; the types and scores as SentencePiece reports them."""
    sp = sentencepiece.SentencePieceProcessor(model_proto=data)
    ids = range(sp.get_piece_size())
    kinds = ((sp.is_unknown, 2), (sp.is_control, 3), (sp.is_unused, 5), (sp.is_byte, 6))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list([sp.id_to_piece(i) for i in ids])
    writer.add_token_scores([sp.get_score(i) for i in ids])
    writer.add_token_types([next((t for is_, t in kinds if is_(i)), 1) for i in ids])
    writer.add_bos_token_id(sp.bos_id())
    writer.add_eos_token_id(sp.eos_id())
    return write_gguf(writer, path, keys)
