"""From a checkpoint to its tokenizer: tokenizer.json, RWKV's vocabulary, tokenizer.model,
vocab.json with merges.txt, ByT5's class, which needs no vocabulary, or GGUF metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models

from rbee_worker.checkpoint.reading import parse_json, read_bytes, read_json, read_text
from rbee_worker.checkpoint.tokenizer_files import BYTES, META, SENTENCEPIECE, UNREAD, WORLD
from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.assembly import Assembly, affix
from rbee_worker.tokenizer.bounds import MAX_FILE_BYTES, check_tokenizer
from rbee_worker.tokenizer.byt5 import byt5_tokenizer
from rbee_worker.tokenizer.classes import CLASSES, class_name
from rbee_worker.tokenizer.core import Tokenizer, is_library_failure
from rbee_worker.tokenizer.gguf import tokenizer_from_gguf
from rbee_worker.tokenizer.pieces import Decoding, byte_alphabet, decoding_of
from rbee_worker.tokenizer.pretokenizers import PRE_TOKENIZERS
from rbee_worker.tokenizer.ranked import ranked_tokenizer
from rbee_worker.tokenizer.renumbered import renumbered
from rbee_worker.tokenizer.source import TokenizerSource
from rbee_worker.tokenizer.spm import read_sentencepiece
from rbee_worker.tokenizer.templates import read_templates
from rbee_worker.tokenizer.vocabulary import split_as
from rbee_worker.tokenizer.wordpiece import CLASSES as BERTS
from rbee_worker.tokenizer.wordpiece import around, around_roberta, as_configured, wordpiece
from rbee_worker.tokenizer.words import Words, read_words
from rbee_worker.tokenizer.world import CLASSES as WORLD_CLASSES
from rbee_worker.tokenizer.world import END as END_OF_TEXT
from rbee_worker.tokenizer.world import by_bytes, read_vocabulary, world_tokenizer

_RWKV = ("rwkv5", "rwkv6", "rwkv7")
_JSON, _VOCAB, _MERGES, _WORDS = "tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"
_CONFIG = "tokenizer_config.json"


def load_tokenizer(ckpt: TokenizerSource) -> Tokenizer:
    """The checkpoint's tokenizer. tokenizer.json is preferred to the other sources.

    Raises CheckpointError if there is none or it is damaged, UnsupportedModel if it is of a kind
    that this worker does not support.
    """
    if ckpt.gguf is not None:
        return tokenizer_from_gguf(ckpt.gguf.metadata)
    model = next((name for name in SENTENCEPIECE if name in ckpt.files), "")
    used: tuple[str, ...]
    if _JSON in ckpt.files:
        made, used = _from_json(ckpt), (_JSON,)
    elif class_name(ckpt.tokenizer_config, ckpt.config) == BYTES:
        made, used = _from_bytes(ckpt), (_CONFIG,)
    elif META in ckpt.files:
        made, used = ranked_tokenizer(ckpt.files[META]), (META,)
    elif world := _world_file(ckpt):
        made, used = _from_world(ckpt, world), (world,)
    elif model:
        made, used = _from_sentencepiece(ckpt, ckpt.files[model]), (model,)
    elif _VOCAB in ckpt.files and _MERGES in ckpt.files:
        made, used = _from_vocab_and_merges(ckpt), (_VOCAB, _MERGES)
    elif _WORDS in ckpt.files:
        made, used = _from_words(ckpt), (_WORDS,)
    else:
        raise _none(ckpt)
    vocabularies = (_JSON, *SENTENCEPIECE, _VOCAB, _MERGES, WORLD, _WORDS)
    for name in (*vocabularies, *UNREAD):
        if name in ckpt.files and name not in used:
            made.unread[name] = f"{used[0]} has the vocabulary"
    return made


def _from_bytes(ckpt: TokenizerSource) -> Tokenizer:
    words = read_words(ckpt.tokenizer_config, ckpt.files)
    return byt5_tokenizer(words, read_templates(ckpt.tokenizer_config, ckpt.files))


def _world_file(ckpt: TokenizerSource) -> str:
    """RWKV's vocabulary file; "" if there is none. A vocab.txt is RWKV's if the tokenizer's class
    says so, or the model's type."""
    if WORLD in ckpt.files:
        return WORLD
    kind = str(ckpt.config.get("model_type"))
    own = class_name(ckpt.tokenizer_config, ckpt.config) in WORLD_CLASSES or kind in _RWKV
    return "vocab.txt" if own and "vocab.txt" in ckpt.files else ""


def _from_world(ckpt: TokenizerSource, name: str) -> Tokenizer:
    tokens = read_vocabulary(ckpt.files[name])
    words = read_words(ckpt.tokenizer_config, ckpt.files)
    templates = read_templates(ckpt.tokenizer_config, ckpt.files)
    ids = by_bytes(tokens)
    special = {i: token.content for i, token in words.given.items() if i not in tokens}
    named = {key: token.content for key, token in words.named.items()}
    if 0 not in special:  # what a file names that is no text
        unknown = [t for t in named.values() if t.encode() not in ids]
        special[0] = unknown[0] if unknown else END_OF_TEXT
    found = {text: i for i, text in special.items()}
    end = {key: found.get(text, ids.get(text.encode())) for key, text in named.items()}
    return world_tokenizer(
        tokens,
        special,
        bos=end.get("bos_token"),
        eos=end.get("eos_token", 0),
        opens=words.config.get("add_bos_token") is True,
        templates=templates.by_name,
        unread={**words.unread, **templates.unread},
        warnings=(*words.notes, *templates.notes),
    )


def _none(ckpt: TokenizerSource) -> CheckpointError:
    others = [f"{name} is {what}" for name, what in UNREAD.items() if name in ckpt.files]
    if _VOCAB in ckpt.files or _MERGES in ckpt.files:
        others.append(f"{_VOCAB} and {_MERGES} make a vocabulary only together")
    looked = f"looked for {', '.join((_JSON, *SENTENCEPIECE, _VOCAB, _WORDS))}"
    return CheckpointError(
        f"{ckpt.ref}: no tokenizer found ({'; '.join(others) or looked}).",
        fix="copy tokenizer.json from the model's page next to config.json",
    )


def _from_json(ckpt: TokenizerSource) -> Tokenizer:
    path = ckpt.files[_JSON]
    text = read_text(path, MAX_FILE_BYTES)
    made = parse_json(text, str(path))
    bounded = check_tokenizer(made)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
        decoding = decoding_of(made.get("decoder"))
    except BaseException as e:
        if not (is_library_failure(e) or isinstance(e, KeyError | TypeError | ValueError)):
            raise
        reason = " ".join(str(e).split())[:120]
        raise CheckpointError(
            f"{path} cannot be read: {reason}.", fix="download tokenizer.json again"
        ) from None
    note = ""
    if class_name(ckpt.tokenizer_config, ckpt.config) in BERTS:
        note = as_configured(backend, ckpt.tokenizer_config)
    assembly = _assembly(ckpt, backend)
    assembly.warnings += [note] if note else []
    return assembly.finish(decoding, bounded=bounded)


def _assembly(
    ckpt: TokenizerSource, backend: tokenizers.Tokenizer, *, defaults: bool = False
) -> Assembly:
    words = read_words(ckpt.tokenizer_config, ckpt.files)
    templates = read_templates(ckpt.tokenizer_config, ckpt.files)
    return Assembly(ckpt, backend, words, templates, defaults=defaults)


def _from_sentencepiece(ckpt: TokenizerSource, path: Path) -> Tokenizer:
    model = read_sentencepiece(read_bytes(path, MAX_FILE_BYTES))
    legacy = ckpt.tokenizer_config.get("legacy", True)
    name = class_name(ckpt.tokenizer_config, ckpt.config)
    model, of_roberta = renumbered(model, name, ckpt.tokenizer_config)
    backend, decoding = model.build(every_segment=legacy is not False)
    assembly = _assembly(ckpt, backend)
    bos = assembly.named("bos_token", model.bos_id)
    eos = assembly.named("eos_token", model.eos_id)
    if of_roberta:
        return _like_roberta(ckpt, assembly, decoding, bos, eos)
    # BPE models (Llama's kind) start with BOS, unigram ones (T5's kind) end with EOS, unless
    # tokenizer_config.json says otherwise.
    opens = assembly.words.config.get("add_bos_token")
    closes = assembly.words.config.get("add_eos_token")
    affixes = (
        affix(bos, model.is_bpe if opens is None else opens),
        affix(eos, not model.is_bpe if closes is None else closes),
    )
    return assembly.finish(decoding, bos=bos, eos=eos, affixes=affixes)


def _like_roberta(
    ckpt: TokenizerSource, assembly: Assembly, decoding: Decoding, bos: int | None, eos: int | None
) -> Tokenizer:
    """The tokenizer, with RoBERTa's tokens around texts. Raises CheckpointError."""
    backend = assembly.backend
    around = [None if i is None else backend.id_to_token(i) for i in (bos, eos)]
    if bos is None or eos is None or None in around:
        raise CheckpointError(
            f"{ckpt.ref}: the vocabulary lacks the tokens around a text, <s> and </s>.",
            fix="download the tokenizer's files again",
        )
    around_roberta(backend, (str(around[0]), bos), (str(around[1]), eos))
    return assembly.finish(decoding, bos=bos, eos=eos)


def _from_vocab_and_merges(ckpt: TokenizerSource) -> Tokenizer:
    """Byte-level BPE from GPT-2's kind of files; the class determines how text is split."""
    name = class_name(ckpt.tokenizer_config, ckpt.config)
    row = CLASSES.get(name)
    if row is None or not row.pre:
        known = ", ".join(n for n, r in CLASSES.items() if r.pre)
        raise CheckpointError(
            f"{ckpt.ref}: {_VOCAB} and {_MERGES} do not say how text is split, and the tokenizer "
            f"class {name[:60]!r} is not known (known: {known}).",
            fix="copy tokenizer.json from the model's page next to config.json",
        )
    vocab = read_json(ckpt.files[_VOCAB], MAX_FILE_BYTES)
    check_tokenizer({"model": {"vocab": vocab}})
    lines = read_text(ckpt.files[_MERGES], MAX_FILE_BYTES).splitlines()
    pairs: list[Any] = [
        tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")
    ]
    try:
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    except BaseException as e:
        if not (is_library_failure(e) or isinstance(e, TypeError | ValueError | OverflowError)):
            raise
        raise CheckpointError(
            f"{ckpt.ref}: {_VOCAB} and {_MERGES} do not match ({' '.join(str(e).split())[:80]}).",
            fix="download both files again",
        ) from None
    prefix = ckpt.tokenizer_config.get("add_prefix_space") is True
    split_as(backend, PRE_TOKENIZERS[row.pre], prefix=prefix)
    assembly = _assembly(ckpt, backend, defaults=True)
    config, ids = assembly.words.config, {}
    for token in ("bos", "eos"):
        usual = row.tokens.get(f"{token}_token", "")
        ids[token] = assembly.named(f"{token}_token", assembly.backend.token_to_id(usual))
    decoding = Decoding(alphabet=byte_alphabet())
    if name == "RobertaTokenizer":
        return _like_roberta(ckpt, assembly, decoding, ids["bos"], ids["eos"])
    affixes = tuple(affix(i, config.get(f"add_{token}_token")) for token, i in ids.items())
    return assembly.finish(
        decoding, bos=ids["bos"], eos=ids["eos"], affixes=(affixes[0], affixes[1])
    )


def _from_words(ckpt: TokenizerSource) -> Tokenizer:
    """BERT's tokenizer from vocab.txt, one piece a line, with the defaults of transformers'
    class."""
    path = ckpt.files[_WORDS]
    pieces = [line.rstrip("\r") for line in read_text(path, MAX_FILE_BYTES).split("\n")]
    if pieces and not pieces[-1]:
        pieces.pop()
    check_tokenizer({"model": {"vocab": {piece: i for i, piece in enumerate(pieces)}}})
    words = read_words(ckpt.tokenizer_config, ckpt.files)
    names = {name: _name(words, name) for name in _BERT_NAMES}
    ids = {name: pieces.index(text) for name, text in names.items() if text in pieces}
    if not {"unk_token", "cls_token", "sep_token"} <= ids.keys():
        lacks = ", ".join(sorted(names[n] for n in names.keys() - ids.keys()))
        raise CheckpointError(f"{path}: lacks the tokens {lacks}.", fix="download it again")
    accents = words.config.get("strip_accents")
    backend, decoding = wordpiece(
        pieces,
        sorted(ids.values()),
        unknown=names["unk_token"],
        lower=words.config.get("do_lower_case") is not False,
        accents=accents if isinstance(accents, bool) else None,
        chinese=words.config.get("tokenize_chinese_chars") is not False,
    )
    around(
        backend,
        (names["cls_token"], ids["cls_token"]),
        (names["sep_token"], ids["sep_token"]),
    )
    return _assembly(ckpt, backend).finish(decoding)


# BERT's names of tokens -> their texts where no file says otherwise.
_BERT_NAMES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def _name(words: Words, name: str) -> str:
    found = words.named.get(name)
    return _BERT_NAMES[name] if found is None else found.content
