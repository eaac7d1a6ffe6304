"""Bounds on a tokenizer.json, held before the library that reads it gets it.

A file of a few hundred bytes can ask for gigabytes: a vocabulary id of a billion, a normalizer
whose steps each make ten characters of one, a regular expression whose time doubles with every
character. Sizes are bounded here. What lengthens text is measured step by step before a long text
is encoded, and a tokenizer with patterns that no published one has is marked: such patterns may
take long, so the event loop does not wait for them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import tokenizers
from tokenizers import normalizers

from rbee_worker.errors import CheckpointError, FieldError, InvalidRequest, UnsupportedModel
from rbee_worker.tokenizer.charsmap import check_charsmap, longest_replacement
from rbee_worker.tokenizer.pretokenizers import PRE_TOKENIZERS
from rbee_worker.tokenizer.words import MAX_ID

MAX_FILE_BYTES = 96 << 20  # Gemma 3's, the largest published, has 33 MB
MAX_ADDED = 1 << 17
MAX_TOKEN_CHARS = 1 << 12
MAX_STEPS = 64  # of a normalizer
MAX_GROWTH = 256  # characters that one step makes of one, at most
MAX_NORMALIZED = 1 << 20  # characters that a normalizer may make of a text
MAX_OWN = 16 << 20  # .. of its own added tokens, at most
USUAL_GROWTH = 1 << 10  # characters that published normalizers could make of one, all steps
MAX_AFFIXES = 1 << 10  # ids that a post-processor puts around a text

_AGAIN = "download tokenizer.json again, from a source you trust"
# Characters that Unicode's own forms make of one, at most (U+FDFA).
_UNICODE = 18
_PUBLISHED = frozenset(
    step.arg for row in PRE_TOKENIZERS.values() for step in row.steps if step.kind == "split"
)
_KINDS: Mapping[str, int] = {
    "NFC": 3,
    "NFD": 4,
    "NFKC": _UNICODE,
    "NFKD": _UNICODE,
    "Lowercase": 3,
    "BertNormalizer": 3,
    "ByteLevel": 4,
}


@dataclass(frozen=True)
class Growth:
    """The steps of a normalizer, each with the most characters that it makes of one."""

    steps: tuple[tuple[Mapping[str, Any], int], ...] = ()

    def check(self, text: str) -> None:
        """Raise InvalidRequest where the normalizer makes far too much of `text`."""
        if len(text) * prod(factor for _, factor in self.steps) <= MAX_NORMALIZED:
            return
        limit = max(MAX_NORMALIZED, 2 * len(text))
        for step, factor in self.steps:
            text = _grown(_alone(step), factor, text, limit)


def _grown(step: normalizers.Normalizer, factor: int, text: str, limit: int) -> str:
    """What one step makes of `text`, piece by piece, so that no piece becomes longer than `limit`;
    what pieces lose at their ends does not matter to lengths. Raises InvalidRequest beyond it."""
    size = max(limit // factor, 1)
    pieces, length = [], 0
    for at in range(0, len(text), size):
        piece = step.normalize_str(text[at : at + size])
        length += len(piece)
        if length > limit:
            message = "the model's tokenizer makes too long a text of it"
            allowed = f"at most {MAX_NORMALIZED} characters once normalized"
            raise InvalidRequest([FieldError("prompt", allowed, message)])
        pieces.append(piece)
    return "".join(pieces)


@dataclass(frozen=True)
class Bounded:
    """growth: of its normalizer. slow: encoding may take long even for a short text."""

    growth: Growth
    slow: bool


def check_tokenizer(made: Mapping[str, Any]) -> Bounded:
    """Hold every size of a parsed tokenizer.json against its bound. Raises CheckpointError.

    Types are the library's to check: what has another one than expected is left to it.
    """
    _check_vocabulary(made)
    _check_affixes(made.get("post_processor"))
    _check_marks(made.get("model"))
    flat = list(_flat(made.get("normalizer"), "normalizers"))
    if len(flat) > MAX_STEPS:
        raise _beyond(f"its normalizer has {len(flat)} steps")
    factors = [_factor(step) for step in flat]
    if (largest := max(factors, default=1)) > MAX_GROWTH:
        raise _beyond(f"its normalizer makes {largest} characters of one")
    _check_added(made, factors)
    patterns = {*_patterns(made.get("normalizer")), *_patterns(made.get("pre_tokenizer"))}
    growth = Growth(tuple(zip(flat, factors, strict=True)))
    return Bounded(growth, not patterns <= _PUBLISHED or prod(factors) > USUAL_GROWTH)


def _check_marks(model: Any) -> None:
    """Raise UnsupportedModel for pieces that say where in a word they stand: no decoder here knows
    them, and the library panics where a piece is shorter than its mark."""
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if isinstance(model, dict) and model.get("type") in ("BPE", None) and model.get(key):
            raise UnsupportedModel(
                f"the tokenizer marks pieces with {key} {str(model[key])[:40]!r}, which is not "
                "supported.",
                fix="use a model with a byte-level or SentencePiece tokenizer",
            )


def _check_vocabulary(made: Mapping[str, Any]) -> None:
    model = made.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = [i for i in vocab.values() if type(i) is int] if isinstance(vocab, dict) else []
    if len(ids) > MAX_ID or max(ids, default=0) > MAX_ID:
        raise _beyond(f"it has a token of id {max(ids)}")


def _check_added(made: Mapping[str, Any], factors: list[int]) -> None:
    added = made.get("added_tokens")
    added = added if isinstance(added, list) else []
    texts = [t["content"] for t in added if isinstance(t, dict) and _is_text(t.get("content"))]
    if len(added) > MAX_ADDED:
        raise _beyond(f"it adds {len(added)} tokens")
    if (longest := max(map(len, texts), default=0)) > MAX_TOKEN_CHARS:
        raise _beyond(f"it adds a token of {longest} characters")
    # The library normalizes those that ask for it when it reads the file.
    normalized = [
        t["content"]
        for t in added
        if isinstance(t, dict) and t.get("normalized") and _is_text(t.get("content"))
    ]
    if sum(map(len, normalized)) * prod(factors) > MAX_OWN:
        raise _beyond("its normalizer makes too long a text of its own added tokens")


def _check_affixes(processor: Any) -> None:
    for step in _flat(processor, "processors"):
        special = step.get("special_tokens")
        entries = special.values() if isinstance(special, dict) else ()
        count = sum(
            len(e["ids"]) for e in entries if isinstance(e, dict) and _is_list(e.get("ids"))
        )
        single = step.get("single")
        if count * (len(single) if isinstance(single, list) else 1) > MAX_AFFIXES:
            raise _beyond("its post-processor puts too many tokens around a text")


def _flat(component: Any, inner: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a component, those of sequences in sequences too."""
    left = [component]
    while left:
        step = left.pop()
        if not isinstance(step, dict):
            continue
        if step.get("type") == "Sequence":
            parts = step.get(inner)
            left += reversed(parts) if isinstance(parts, list) else []
        else:
            yield step


def _factor(step: Mapping[str, Any]) -> int:
    """Characters that a step of a normalizer makes of one, at most."""
    kind = step.get("type")
    if kind == "Prepend":
        return 1 + len(str(step.get("prepend", "")))
    if kind == "Replace":
        content, pattern = len(str(step.get("content", ""))), step.get("pattern")
        literal = pattern.get("String") if isinstance(pattern, dict) else None
        if isinstance(literal, str) and literal:
            return max(1, -(-content // len(literal)))
        return 1 + content  # a regular expression may match nothing, between all characters
    if kind == "Precompiled":
        return longest_replacement(_charsmap(step))
    return _KINDS.get(str(kind), 1)


def _charsmap(step: Mapping[str, Any]) -> bytes:
    """The map of a Precompiled step, walked by no one before it is checked."""
    try:
        return check_charsmap(base64.b64decode(step.get("precompiled_charsmap") or ""))
    except (ValueError, TypeError):
        return b""  # the library says what is wrong


def _patterns(component: Any) -> Iterator[str]:
    """Every regular expression below a component, line breaks spelled as escapes."""
    left = [component]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if isinstance(pattern := value.get("Regex"), str):
                yield pattern.replace("\r", r"\r").replace("\n", r"\n")
            left += value.values()
        elif isinstance(value, list):
            left += value


def _alone(step: Mapping[str, Any]) -> normalizers.Normalizer:
    """One step of a normalizer, made by the library as it would make it in its place."""
    shell = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
    backend = tokenizers.Tokenizer.from_str(json.dumps({**shell, "normalizer": step}))
    alone: normalizers.Normalizer = backend.normalizer
    return alone


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _beyond(what: str) -> CheckpointError:
    return CheckpointError(f"tokenizer.json is beyond all bounds: {what}.", fix=_AGAIN)
