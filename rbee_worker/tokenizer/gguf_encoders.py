"""Tokenizers of encoders in GGUF files: BERT's, and what RoBERTa puts around texts."""

from __future__ import annotations

from tokenizers import Tokenizer as Backend

from rbee_worker.tokenizer.gguf_keys import Metadata, token_id
from rbee_worker.tokenizer.pieces import Decoding
from rbee_worker.tokenizer.vocabulary import Vocabulary
from rbee_worker.tokenizer.wordpiece import around, around_roberta, is_cased, wordpiece

# BERT's tokens: the keys that may name them, and llama.cpp's ids without.
_BERT = (
    (("unknown_token_id",), 100),
    (("cls_token_id", "bos_token_id"), 101),
    (("seperator_token_id", "eos_token_id"), 102),
)
_ROBERTA = (("bos", 0), ("eos", 2))


def bert(meta: Metadata, vocab: Vocabulary, warnings: list[str]) -> tuple[Backend, Decoding, None]:
    """BERT's. Files do not say whether texts are put in lower case; their pieces show it."""
    size = len(vocab.pieces)
    unknown, cls, sep = (
        next(
            (i for name in names if (i := token_id(meta, name, None, size)) is not None),
            min(usual, size - 1),
        )
        for names, usual in _BERT
    )
    backend, decoding = wordpiece(
        vocab.pieces,
        vocab.special_ids,
        unknown=vocab.pieces[unknown],
        lower=not is_cased(vocab),
    )
    around(backend, (vocab.pieces[cls], cls), (vocab.pieces[sep], sep))
    return backend, decoding, None


def of_roberta(meta: Metadata, vocab: Vocabulary, backend: Backend) -> None:
    """Put RoBERTa's tokens around texts, two of them between two texts."""
    size = len(vocab.pieces)
    opening, closing = (
        token_id(meta, f"{name}_token_id", usual, size) or 0 for name, usual in _ROBERTA
    )
    first, last = vocab.pieces[opening], vocab.pieces[closing]
    around_roberta(backend, (first, opening), (last, closing))
