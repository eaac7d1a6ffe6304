"""Limits on a tokenizer.json, checked before the library that reads it gets it.

A file of a few hundred bytes can ask for gigabytes: a vocabulary id of a billion, a normalizer in
which each step turns one character into ten, a regular expression whose time doubles with every
character. Sizes are limited here. Steps that lengthen text are measured one by one before a long
text is encoded. A tokenizer with patterns that no published one has is marked as slow, so the event
loop does not wait for it.
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
MAX_STEPS = 64  # most steps of a normalizer
MAX_GROWTH = 256  # most characters that one step makes from one
MAX_NORMALIZED = 1 << 20  # most characters that a normalizer may make from a text
MAX_OWN = 16 << 20  # .. from its own added tokens
USUAL_GROWTH = 1 << 10  # most characters that all steps of published normalizers make from one
MAX_AFFIXES = 1 << 10  # ids that a post-processor puts around a text

_AGAIN = "download tokenizer.json again, from a source you trust"
# Most characters that Unicode's normalization forms make from one (U+FDFA).
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
    """The steps of a normalizer, each with the most characters that it makes from one."""

    steps: tuple[tuple[Mapping[str, Any], int], ...] = ()

    def check(self, text: str) -> None:
        """Raise InvalidRequest if the normalizer makes `text` far too long."""
        if len(text) * prod(factor for _, factor in self.steps) <= MAX_NORMALIZED:
            return
        limit = max(MAX_NORMALIZED, 2 * len(text))
        for step, factor in self.steps:
            text = _grown(_alone(step), factor, text, limit)


def _grown(step: normalizers.Normalizer, factor: int, text: str, limit: int) -> str:
    """The text after one step, computed in pieces that stay within `limit`. The ends of pieces may
    differ from those of the whole text, which does not matter for lengths. Raises InvalidRequest
    beyond `limit`."""
    size = max(limit // factor, 1)
    pieces, length = [], 0
    for at in range(0, len(text), size):
        piece = step.normalize_str(text[at : at + size])
        length += len(piece)
        if length > limit:
            message = "the model's tokenizer makes this text too long"
            allowed = f"at most {MAX_NORMALIZED} characters once normalized"
            raise InvalidRequest([FieldError("prompt", allowed, message)])
        pieces.append(piece)
    return "".join(pieces)


@dataclass(frozen=True)
class Bounded:
    """growth: of the normalizer. slow: whether encoding may take long even for a short text."""

    growth: Growth
    slow: bool


def check_tokenizer(made: Mapping[str, Any]) -> Bounded:
    """Check every size in a parsed tokenizer.json against its limit. Raises CheckpointError.

    The library checks types; a value of another type than expected is left to it.
    """
    _check_vocabulary(made)
    _check_affixes(made.get("post_processor"))
    _check_marks(made.get("model"))
    flat = list(_flat(made.get("normalizer"), "normalizers"))
    if len(flat) > MAX_STEPS:
        raise _beyond(f"its normalizer has {len(flat)} steps")
    factors = [_factor(step) for step in flat]
    if (largest := max(factors, default=1)) > MAX_GROWTH:
        raise _beyond(f"its normalizer makes {largest} characters from one")
    _check_added(made, factors)
    patterns = {*_patterns(made.get("normalizer")), *_patterns(made.get("pre_tokenizer"))}
    growth = Growth(tuple(zip(flat, factors, strict=True)))
    return Bounded(growth, not patterns <= _PUBLISHED or prod(factors) > USUAL_GROWTH)


def _check_marks(model: Any) -> None:
    """Raise UnsupportedModel for pieces that mark their position in a word: no decoder here knows
    such marks, and the library panics if a piece is shorter than its mark."""
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
    # The library normalizes tokens with `normalized` when it reads the file.
    normalized = [
        t["content"]
        for t in added
        if isinstance(t, dict) and t.get("normalized") and _is_text(t.get("content"))
    ]
    if sum(map(len, normalized)) * prod(factors) > MAX_OWN:
        raise _beyond("its normalizer makes its own added tokens too long")


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
    """The steps of a component, including those of nested sequences."""
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
    """The most characters that a normalizer step makes from one."""
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
    """The map of a Precompiled step, checked before anything walks it."""
    try:
        return check_charsmap(base64.b64decode(step.get("precompiled_charsmap") or ""))
    except (ValueError, TypeError):
        return b""  # the library reports what is wrong


def _patterns(component: Any) -> Iterator[str]:
    """Every regular expression below a component, with line breaks spelled as escapes."""
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
    """One step of a normalizer, made by the library exactly as in its place."""
    shell = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
    backend = tokenizers.Tokenizer.from_str(json.dumps({**shell, "normalizer": step}))
    alone: normalizers.Normalizer = backend.normalizer
    return alone


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _beyond(what: str) -> CheckpointError:
    return CheckpointError(f"tokenizer.json exceeds a limit: {what}.", fix=_AGAIN)
