"""Reads what the small files beside a vocabulary say about its tokens, in transformers' order.

tokenizer_config.json lists added tokens with their ids, or else added_tokens.json does. Names of
tokens ("eos_token") are in tokenizer_config.json; special_tokens_map.json comes before it, but is
read only if tokenizer_config.json lists no added tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from rbee_worker.checkpoint.reading import read_json
from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.classes import NAMES

MAX_ID = (1 << 22) - 1  # no vocabulary has half as many tokens

_CONFIG, _MAP, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_AGAIN = "download the tokenizer's files again"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Words:
    """config: both files of names merged. given: tokens whose ids a file states, by id; origin:
    that file. extra: special tokens without a name. unread: files that are not used, and why.
    notes: for the user."""

    config: Mapping[str, Any]
    given: Mapping[int, AddedToken]
    origin: str
    extra: tuple[AddedToken, ...]
    unread: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def restates(self) -> bool:
        """Whether the list also restates how the vocabulary's tokens treat the text around them;
        added_tokens.json gives only ids."""
        return self.origin == _CONFIG

    @property
    def named(self) -> dict[str, AddedToken]:
        """Tokens with names, in the order in which missing ones get ids."""
        own = {name: self.config.get(name) for name in NAMES}
        own |= {k: v for k, v in self.config.items() if k.endswith("_token") and k not in NAMES}
        extra = self.config.get("extra_special_tokens")
        own |= extra if isinstance(extra, dict) else {}
        tokens = {name: added_token(entry) for name, entry in own.items()}
        return {name: token for name, token in tokens.items() if token is not None}


def read_words(tokenizer_config: Mapping[str, Any], files: Mapping[str, Path]) -> Words:
    """Read the files that exist. Raises CheckpointError for damaged ones."""
    config = dict(tokenizer_config)
    unread: dict[str, str] = {}
    notes: list[str] = []
    if "added_tokens_decoder" in config:
        given, origin = _decoder(config["added_tokens_decoder"]), _CONFIG
        unread = dict.fromkeys((_MAP, _ADDED), f"{_CONFIG} lists the added tokens")
    else:
        if _MAP in files:
            config, notes = _merged(config, read_json(files[_MAP]))
        given, origin = {}, _ADDED
    extra = _listed(config)
    if _ADDED in files and origin == _ADDED:
        found = (added_token(config.get(name)) for name in NAMES)
        special = {t.content for t in (*found, *extra) if t is not None}
        given = _encoder(read_json(files[_ADDED]), special)
    return Words(
        config, given, origin, extra, {k: v for k, v in unread.items() if k in files}, tuple(notes)
    )


def added_token(entry: Any) -> AddedToken | None:
    """A token as the files write it: its text, or an object with its properties; None for null, ""
    and everything that is not a token."""
    if isinstance(entry, str):
        return AddedToken(entry, special=True, normalized=False) if entry else None
    if isinstance(entry, dict) and isinstance(entry.get("content"), str):
        options = {k: bool(entry[k]) for k in _FLAGS if k in entry}
        return AddedToken(entry["content"], **options) if entry["content"] else None
    return None


def _merged(
    config: Mapping[str, Any], names: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """`config` overlaid with special_tokens_map.json, and a note on each name that both have."""
    notes = []
    for name in NAMES:
        here, there = added_token(config.get(name)), added_token(names.get(name))
        if here is not None and there is not None and here.content != there.content:
            notes.append(
                f"{_MAP} says that {name} is {there.content!r}, but {_CONFIG} says "
                f"{here.content!r}: the first is used, as in transformers"
            )
    for name in sorted(config.keys() & names.keys() - {*NAMES}):
        here, there = config[name], names[name]
        if name.endswith("_token") and isinstance(here, str) and here and here != there:
            raise CheckpointError(
                f"{_MAP} says that {name} is {str(there)[:60]}, but {_CONFIG} says {here[:60]}.",
                fix="remove the one that is wrong",
            )
    merged = {**config, **names}
    for key in ("extra_special_tokens", "additional_special_tokens"):
        if config.get("extra_special_tokens") or config.get("additional_special_tokens"):
            merged[key] = config.get(key)
    return merged, notes


def _listed(config: Mapping[str, Any]) -> tuple[AddedToken, ...]:
    """Special tokens in a list; the objects among them have names instead."""
    listed = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    if isinstance(listed, dict):
        return ()
    if not isinstance(listed, list):
        raise CheckpointError(f"{_CONFIG}: extra_special_tokens is not a list.", fix=_AGAIN)
    return tuple(token for token in map(added_token, listed) if token is not None)


def _decoder(entries: Any) -> dict[int, AddedToken]:
    """`added_tokens_decoder`: id, as text -> token."""
    if not isinstance(entries, dict):
        raise CheckpointError(f"{_CONFIG}: added_tokens_decoder is not an object.", fix=_AGAIN)
    return _checked(_CONFIG, ((int(k) if k.isdecimal() else k, v) for k, v in entries.items()))


def _encoder(entries: Mapping[str, Any], special: set[str]) -> dict[int, AddedToken]:
    """added_tokens.json: token -> id."""
    flags = {
        text: {"special": text in special, "normalized": text not in special} for text in entries
    }
    return _checked(_ADDED, ((i, {"content": t, **flags[t]}) for t, i in entries.items()))


def _checked(where: str, items: Iterable[tuple[Any, Any]]) -> dict[int, AddedToken]:
    """Tokens by id, in order. Raises CheckpointError for invalid tokens or ids."""
    found: dict[int, AddedToken] = {}
    for i, entry in items:
        if isinstance(entry, dict) and entry.get("content") == "":
            continue  # no text contains it
        token = added_token(entry) if isinstance(entry, dict) else None
        if type(i) is not int or not 0 <= i <= MAX_ID or token is None:
            raise CheckpointError(f"{where}: {str(i)[:40]!r} is not a token's id.", fix=_AGAIN)
        if i in found:
            raise CheckpointError(
                f"{where}: {found[i].content!r} and {token.content!r} both have id {i}.", fix=_AGAIN
            )
        found[i] = token
    return dict(sorted(found.items()))
