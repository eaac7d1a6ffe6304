"""RWKV's World tokenizer: the longest token that the rest of a text begins with, again and again.

Tokens are bytes, every single byte is one, and nothing is split or normalized before, so that any
text comes back byte for byte. Files: rwkv_vocab_v20230424.txt (a line "id literal length" for each
token; id 0, the end of a text, has none), vocab.txt of Hugging Face's RWKV 5 (a literal in each
line, counted from 0), and GGUF files of kind "rwkv" (tokens as the inside of a Python literal).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rbee_worker.checkpoint.reading import read_text
from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.bounds import MAX_FILE_BYTES, MAX_TOKEN_CHARS
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.pieces import Decoding, byte_alphabet
from rbee_worker.tokenizer.words import MAX_ID

CLASSES = ("RwkvTokenizer", "Rwkv5Tokenizer", "Rwkv6Tokenizer", "RWKVWorldTokenizer")
END = "<|endoftext|>"  # the name of id 0, if the files have none

# Blank lines would end a turn, so that the model card replaces them in what a person writes.
TEMPLATE = """\
{%- for message in messages -%}
{%- set names = {'system': 'System', 'user': 'User', 'assistant': 'Assistant'} -%}
{%- if message['role'] not in names -%}
{{- raise_exception("RWKV's chat format has no " + message['role'] + ' messages') -}}
{%- endif -%}
{{- names[message['role']] + ': ' -}}
{{- message['content'].strip().split('\\n') | select | join('\\n') + '\\n\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""
STOPS = ("\n\nUser:",)  # where the model goes on with the person's turn
WITHOUT_TEMPLATE = (
    "the files have no chat template: conversations are written as RWKV's model cards say (User:, "
    "Assistant:, a blank line after each turn)"
)

_AGAIN = "download the tokenizer's files again"
_LINE = re.compile(r"(\d{1,7}) (.+) (\d{1,5})")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_SHORT = {"n": "\n", "t": "\t", "r": "\r"}
_SPELLED = {byte: char for char, byte in byte_alphabet().items()}


@dataclass(frozen=True)
class Encoding:
    """The ids of a text."""

    ids: list[int]


def world_tokenizer(
    tokens: Mapping[int, bytes],
    special: Mapping[int, str],
    *,
    bos: int | None,
    eos: int | None,
    opens: bool,
    templates: Mapping[str, str],
    unread: Mapping[str, str],
    warnings: Sequence[str],
) -> Tokenizer:
    """The tokenizer of these tokens. special: those that stand for no text, by id; opens: whether
    `bos` opens every text. Without `templates`, conversations have the form of the model cards.
    Raises CheckpointError.
    """
    backend = LongestMatch(by_bytes(tokens), {text: i for i, text in special.items()})
    pieces: list[str | None] = [None] * (max(*tokens, *special) + 1)
    for i, token in tokens.items():
        pieces[i] = spelled(token)
    for i, text in special.items():
        pieces[i] = text
    if not templates:
        templates, warnings = {"default": TEMPLATE}, [*warnings, WITHOUT_TEMPLATE]
    named = {"bos_token": bos, "eos_token": eos}
    texts = {name: pieces[i] for name, i in named.items() if i is not None}
    return Tokenizer(
        backend,
        Decoding(alphabet=byte_alphabet()),
        pieces=pieces,
        special_ids=special,
        bos_id=bos,
        eos_id=eos,
        affixes=((bos,) if opens and bos is not None else (), ()),
        chat_templates=templates,
        template_tokens={name: text for name, text in texts.items() if text is not None},
        unread=unread,
        warnings=tuple(warnings),
        literal=backend.literal,
        turn_stops=STOPS if any(map(_has_turns, templates.values())) else (),
    )


def _has_turns(template: str) -> bool:
    """Whether a template writes a person's turn as the model cards do."""
    return template == TEMPLATE or "User:" in template


class LongestMatch:
    """Encodes by the longest match. tokens: bytes -> id; special: text -> id of tokens that are
    found before others.

    Raises CheckpointError if a byte has no token.
    """

    def __init__(self, tokens: Mapping[bytes, int], special: Mapping[str, int]) -> None:
        missing = [b for b in range(256) if bytes((b,)) not in tokens]
        if missing:
            raise CheckpointError(
                f"the tokenizer has no token for {len(missing)} bytes, such as {missing[0]}.",
                fix=_AGAIN,
            )
        self._tokens, self._special = tokens, special
        self._split = _between(special)
        lengths: dict[bytes, set[int]] = {}
        for token in tokens:
            if len(token) > 1:
                lengths.setdefault(token[:2], set()).add(len(token))
        # By the first two bytes: the lengths that tokens with that beginning have, longest first.
        self._lengths = {two: tuple(sorted(found)[::-1]) for two, found in lengths.items()}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Encoding:
        """The ids of `text`; nothing is added to them. Raises UnicodeEncodeError for lone
        surrogates."""
        if self._split is None:
            return Encoding(self._plain(text.encode()))
        ids: list[int] = []
        at = 0
        for found in self._split.finditer(text):
            ids += self._plain(text[at : found.start()].encode())
            ids.append(self._special[found[0]])
            at = found.end()
        return Encoding(ids + self._plain(text[at:].encode()))

    def encode_batch_fast(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[Encoding]:
        """`encode` of each."""
        return [self.encode(text) for text in texts]

    def token_to_id(self, piece: str) -> int | None:
        """The id of a piece, spelled as `spelled` does, or as a special token."""
        if piece in self._special:
            return self._special[piece]
        alphabet = byte_alphabet()
        known = all(char in alphabet for char in piece)
        return self._tokens.get(bytes(alphabet[c] for c in piece)) if known else None

    def no_truncation(self) -> None:
        """Nothing is ever cut."""

    def no_padding(self) -> None:
        """Nothing is ever added."""

    def literal(self) -> LongestMatch:
        """The same without special tokens."""
        return LongestMatch(self._tokens, {})

    def _plain(self, data: bytes) -> list[int]:
        tokens, lengths = self._tokens, self._lengths
        ids, at = [], 0
        while at < len(data):
            for size in lengths.get(data[at : at + 2], ()):
                found = tokens.get(data[at : at + size])
                if found is not None and at + size <= len(data):
                    ids.append(found)
                    at += size
                    break
            else:
                ids.append(tokens[data[at : at + 1]])
                at += 1
        return ids


def spelled(token: bytes) -> str:
    """A token's piece: a printable character for each byte, as in GPT-2's vocabularies."""
    return "".join(map(_SPELLED.__getitem__, token))


def read_vocabulary(path: Path) -> dict[int, bytes]:
    """The tokens of a vocabulary file by id. Raises CheckpointError."""
    lines = read_text(path, MAX_FILE_BYTES).removesuffix("\n").split("\n")
    numbered = _LINE.fullmatch(lines[0].removesuffix("\r")) is not None
    found: dict[int, bytes] = {}
    for number, line in enumerate(lines):
        try:
            if numbered:
                number, token = _numbered(line.removesuffix("\r"))
            else:
                token = _literal(line.removesuffix("\r"))
        except (ValueError, SyntaxError):
            raise CheckpointError(
                f"{path}: line {number + 1} is no token of RWKV's: {line[:60]!r}.", fix=_AGAIN
            ) from None
        if token in (b"<s>", END.encode()) and number == 0:
            continue  # the end of a text, which no text has
        if number in found or number > MAX_ID:
            raise CheckpointError(f"{path}: two tokens have the id {number}.", fix=_AGAIN)
        found[number] = token
    return found


def unescaped(text: str) -> bytes:
    """The bytes of a token in a GGUF file: the inside of a Python literal of bytes."""

    def one(found: re.Match[str]) -> str:
        what = found[1]
        return chr(int(what[1:], 16)) if len(what) == 3 else _SHORT.get(what, what)

    return _ESCAPE.sub(one, text).encode("latin-1")


def by_bytes(tokens: Mapping[int, bytes]) -> dict[bytes, int]:
    """Bytes -> id. Raises CheckpointError if two tokens are the same bytes."""
    found = {token: i for i, token in tokens.items() if token}
    if len(found) < len(tokens):
        order = sorted(tokens, key=lambda i: tokens[i])
        twins = [f"{a} and {b}" for a, b in pairwise(order) if tokens[a] == tokens[b]]
        raise CheckpointError(
            f"the tokenizer's tokens {(twins or ['with no bytes'])[0]} are the same.", fix=_AGAIN
        )
    return found


def _numbered(line: str) -> tuple[int, bytes]:
    """ "261 '\\n\\n' 2" -> (261, b"\\n\\n"). Raises ValueError, SyntaxError."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError
    token = _literal(match[2])
    if len(token) != int(match[3]):
        raise ValueError
    return int(match[1]), token


def _literal(text: str) -> bytes:
    """The bytes of a Python literal of text or bytes. Raises ValueError, SyntaxError."""
    if len(text) > MAX_TOKEN_CHARS:
        raise ValueError
    quote = text[:1]
    inside = text[1:-1]
    # Nearly all are plain, and `literal_eval` of 65,000 takes half a second.
    if quote in ("'", '"') and text[-1:] == quote and "\\" not in text and quote not in inside:
        return inside.encode()
    if quote == "b" and len(text) > 2 and text[1] == text[-1] and text[1] in "'\"":
        return unescaped(text[2:-1])
    token = ast.literal_eval(text)
    if not isinstance(token, str):
        raise ValueError
    return token.encode()


def _between(special: Mapping[str, int]) -> re.Pattern[str] | None:
    """Finds special tokens, the longest first."""
    longest = sorted(special, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest))) if longest else None
