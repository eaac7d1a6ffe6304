"""Builds a `Tokenizer` from a backend and the tokens that the files beside it add and name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken

from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.bounds import Bounded
from rbee_worker.tokenizer.classes import NAMES, TokenizerClass, class_name, class_of
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.pieces import Decoding
from rbee_worker.tokenizer.source import TokenizerSource
from rbee_worker.tokenizer.templates import Templates
from rbee_worker.tokenizer.words import MAX_ID, Words

# Classes whose add_bos_token and add_eos_token apply even if the tokenizer.json's post-processor
# adds nothing (DeepSeek's files). For any other class the post-processor alone decides.
_CONFIG_ADDS = frozenset(
    {
        "LlamaTokenizer",
        "LlamaTokenizerFast",
        "CodeLlamaTokenizer",
        "CodeLlamaTokenizerFast",
        "GemmaTokenizer",
        "GemmaTokenizerFast",
        "CohereTokenizerFast",
        "CodeGenTokenizer",
        "CodeGenTokenizerFast",
    }
)
_AGREE = "correct the files so that they agree, or download them again"

_Affixes = tuple[tuple[int, ...], tuple[int, ...]]


def affix(token: int | None, wanted: Any) -> tuple[int, ...]:
    """The tuple of one id to put before or after a text, or of none."""
    return (token,) if wanted and token is not None else ()


class Assembly:
    """Adds the tokens of `words` to `backend`; `finish` makes the tokenizer.

    Raises CheckpointError if the files contradict each other.
    """

    def __init__(
        self,
        ckpt: TokenizerSource,
        backend: tokenizers.Tokenizer,
        words: Words,
        templates: Templates,
        *,
        defaults: bool = False,
    ) -> None:
        """defaults: whether the defaults of the tokenizer's class apply too."""
        self.ckpt = ckpt
        self.words = words
        self.templates = templates
        self.warnings = [*words.notes, *templates.notes]
        self._class = class_name(words.config, ckpt.config)
        row = class_of(self._class, byte_level=True) if defaults else TokenizerClass()
        named = [*self._named_tokens(row).values(), *words.extra]
        self.special = {token.content for token in named}
        self.backend = self._assembled(backend, named)

    def _named_tokens(self, row: TokenizerClass) -> dict[str, AddedToken]:
        """Tokens with names; where the files give none, those of the class."""
        said = self.words.named
        silent = {
            name: AddedToken(text, special=True, normalized=False)
            for name, text in row.tokens.items()
            if name not in self.words.config
        }
        both = {**silent, **said}
        return {name: both[name] for name in (*NAMES, *said) if name in both}

    def _assembled(
        self, backend: tokenizers.Tokenizer, named: list[AddedToken]
    ) -> tokenizers.Tokenizer:
        """`backend` with every listed token at its id in the file, then the `named` tokens.

        All are added in one call and in this order, as in transformers: the library assigns
        consecutive ids to tokens that it does not know yet.
        """
        listed, missing = self._listed(backend)
        added = backend.get_added_tokens_decoder()
        first = max(backend.get_vocab_size(with_added_tokens=False), max(added, default=-1) + 1)
        if [*missing] != [*range(first, first + len(missing))]:
            backend = self._with_gaps(backend, missing)
        there = {token.content: token for token in added.values()}
        there |= {token.content: token for token in listed}
        unseen = {t.content: t for t in named if t.content not in there}
        for token in (*listed, *unseen.values()):
            token.special = token.special or token.content in self.special
        backend.add_tokens([*listed, *unseen.values()])
        # Others become special here, but keep their treatment of adjacent spaces.
        marked = [there[text] for text in self.special if text in there]
        for token in marked:
            token.special = True
        backend.add_special_tokens(marked)
        for i, token in missing.items():
            if backend.token_to_id(token.content) != i:
                raise CheckpointError(
                    f"{self.words.origin} gives {token.content[:60]!r} the id {i}, which this "
                    "vocabulary has no place for.",
                    fix=_AGREE,
                )
        return backend

    def _listed(
        self, backend: tokenizers.Tokenizer
    ) -> tuple[list[AddedToken], dict[int, AddedToken]]:
        """The tokens to add, in the order of their ids, and those of them that the vocabulary
        lacks. A token that the vocabulary has is added too, because added tokens are found before
        text is split."""
        added = {t.content for t in backend.get_added_tokens_decoder().values()}
        listed: list[AddedToken] = []
        missing: dict[int, AddedToken] = {}
        moved = 0
        for i, token in self.words.given.items():
            found = backend.token_to_id(token.content)
            if found is None and (other := backend.id_to_token(i)) is not None:
                raise CheckpointError(
                    f"{self.words.origin} gives id {i} to {token.content[:60]!r}, but the "
                    f"vocabulary gives it to {other[:60]!r}.",
                    fix=_AGREE,
                )
            if found is None:
                missing[i] = token
            moved += found not in (None, i)
            if self.words.restates or token.content not in added or found != i:
                listed.append(token)
        if moved:
            self.warnings.append(
                f"{self.words.origin} places {moved} tokens at other ids than the vocabulary: "
                "the vocabulary's ids apply"
            )
        return listed, missing

    def _with_gaps(
        self, backend: tokenizers.Tokenizer, missing: Mapping[int, AddedToken]
    ) -> tokenizers.Tokenizer:
        """Make tokens beyond a gap in the ids entries of the model's own vocabulary, which may have
        gaps. A unigram model's may not."""
        made = json.loads(backend.to_str())
        vocab = made["model"]["vocab"]
        if isinstance(vocab, dict):
            vocab |= {token.content: i for i, token in missing.items()}
            backend = tokenizers.Tokenizer.from_str(json.dumps(made))
        return backend

    def named(self, name: str, default: int | None = None) -> int | None:
        """The id of "bos_token" or the like, from the files, `default` or config.json."""
        token = self.words.named.get(name)
        found = None if token is None else self.backend.token_to_id(token.content)
        if found is not None:
            return int(found)
        if default is not None or name in self.words.config:
            return default
        ids = self.ckpt.config.get(f"{name}_id")
        first = ids[0] if isinstance(ids, list) and ids else ids
        if type(first) is int and 0 <= first <= MAX_ID and self.backend.id_to_token(first):
            return first
        return None

    def finish(
        self,
        decoding: Decoding,
        *,
        bos: int | None = None,
        eos: int | None = None,
        affixes: _Affixes | None = None,
        bounded: Bounded | None = None,
    ) -> Tokenizer:
        """The tokenizer. bos, eos: ids to use if no file names the tokens."""
        vocab = self.backend.get_vocab()
        last = max(vocab.values(), default=-1)
        if last > MAX_ID:
            raise CheckpointError(
                f"the tokenizer has a token of id {last}; ids up to {MAX_ID} are read.",
                fix="download the tokenizer's files again",
            )
        pieces: list[str | None] = [None] * (last + 1)
        for piece, i in vocab.items():
            if (other := pieces[i]) is not None:
                raise CheckpointError(
                    f"the tokenizer has two tokens of id {i}: {other[:60]!r} and {piece[:60]!r}.",
                    fix=_AGREE,
                )
            pieces[i] = piece
        bos, eos = self.named("bos_token", bos), self.named("eos_token", eos)
        added = self.backend.get_added_tokens_decoder().items()
        spelled = {i: self.backend.id_to_token(i) or "" for i, t in added if t.normalized}
        return Tokenizer(
            self.backend,
            decoding,
            pieces=pieces,
            spelled=spelled,
            special_ids=[i for i, t in added if t.special or t.content in self.special],
            bos_id=bos,
            eos_id=eos,
            affixes=affixes or self._configured_affixes(bos, eos),
            opens_both=True,  # as transformers' classes for such files do
            chat_templates=self.templates.by_name,
            template_tokens=self._template_tokens(decoding),
            unread={**self.words.unread, **self.templates.unread},
            bounded=bounded,
            warnings=tuple(self.warnings),
        )

    def _template_tokens(self, decoding: Decoding) -> dict[str, str]:
        """Names that chat templates know, as transformers defines them."""
        row = class_of(self._class, byte_level=decoding.alphabet is not None)
        return {name: token.content for name, token in self._named_tokens(row).items()}

    def _configured_affixes(self, bos: int | None, eos: int | None) -> _Affixes | None:
        config = self.words.config
        if config.get("tokenizer_class") not in _CONFIG_ADDS:
            return None
        if self.backend.num_special_tokens_to_add(False):
            return None
        return affix(bos, config.get("add_bos_token")), affix(eos, config.get("add_eos_token"))
