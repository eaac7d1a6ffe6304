"""MetaVoice's tokenizer: byte pairs by rank, as in tiktoken, from `first_stage.meta.json`.

The file has a pattern that splits text, the ranks of the merged tokens, and the offset that the
first stage adds to every id, because tokens of sound come first: 0 .. 1023 are EnCodec's first
codebook, the next 1024 its second one, then comes the end of the sound, then the text. A text ends
with the file's one special token. The library's byte pairs are those of tiktoken: each merge takes
the pair of the lowest rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, models, pre_tokenizers

from rbee_worker.checkpoint.reading import read_json
from rbee_worker.checkpoint.stages import CODES, END_OF_AUDIO
from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.core import Tokenizer, is_library_failure
from rbee_worker.tokenizer.pieces import Decoding, byte_alphabet
from rbee_worker.tokenizer.words import MAX_ID
from rbee_worker.tokenizer.world import spelled

_BYTES = 256
_MOST = 1 << 16  # tokens; published files have 512
END = "<|end_of_audio|>"
# Not as the file spells it: under that name it ends answers elsewhere, here it begins them.
_END_OF_TEXT = "<|text_end|>"


def ranked_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a `first_stage.meta.json`. Raises CheckpointError."""
    found = read_json(path).get("tokenizer")
    if not isinstance(found, Mapping):
        raise _damaged(path, "has no object `tokenizer`")
    ranks, end, offset = _ranks(found, path), _end(found, path), _offset(found, path)
    special = {
        f"<|{book}:{code}|>": book * CODES + code for book in (0, 1) for code in range(CODES)
    }
    special |= {END: END_OF_AUDIO, _END_OF_TEXT: offset + end}
    text = {spelled(token): offset + rank for token, rank in ranks.items()}
    if len({*special.values(), *text.values()}) < len(special) + len(text):
        raise _damaged(path, "gives two tokens one id")
    backend = _backend({**text, **special}, _merges(ranks), found.get("pat_str"), path)
    pieces: list[str | None] = [None] * (max(*special.values(), *text.values()) + 1)
    for piece, i in (*text.items(), *special.items()):
        pieces[i] = piece
    return Tokenizer(
        backend,
        Decoding(alphabet=byte_alphabet()),
        pieces=pieces,
        special_ids=special.values(),
        affixes=((), (offset + end,)),
    )


def text_offset(path: Path) -> int:
    """The number that a stage's ids of text are the tokenizer's own plus. Raises
    CheckpointError."""
    found = read_json(path).get("tokenizer")
    return _offset(found if isinstance(found, Mapping) else {}, path)


def _ranks(found: Mapping[str, Any], path: Path) -> dict[bytes, int]:
    """Rank by token. The first 256 are the bytes themselves, whatever the file spells them as."""
    listed = found.get("mergeable_ranks")
    if not isinstance(listed, Mapping) or len(listed) > _MOST:
        raise _damaged(path, "has no usable mergeable_ranks")
    ranks = {bytes([byte]): byte for byte in range(_BYTES)}
    for token, rank in listed.items():
        if type(rank) is not int or not 0 <= rank <= MAX_ID or not token:
            raise _damaged(path, f"gives the token {token[:40]!r} a rank that is no number")
        if rank >= _BYTES:
            ranks[token.encode()] = rank
    return ranks


def _end(found: Mapping[str, Any], path: Path) -> int:
    """The rank of the token that ends a text."""
    special = found.get("special_tokens")
    if not isinstance(special, Mapping) or len(special) != 1:
        raise _damaged(path, "does not have exactly one special token")
    (rank,) = special.values()
    if type(rank) is not int or not 0 <= rank <= MAX_ID:
        raise _damaged(path, "gives its special token an id that is no number")
    return rank


def _offset(found: Mapping[str, Any], path: Path) -> int:
    offset = found.get("offset")
    if type(offset) is not int or not 0 <= offset <= MAX_ID:
        raise _damaged(path, "has no offset of its ids")
    return offset


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[str, str]]:
    """The pairs that make each token, by rank: those that are left of its bytes once all pairs of
    lower ranks are merged. A token that is not left as two cannot be made, as in tiktoken."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = _parts(token, ranks, rank)
        if len(token) > 1 and len(parts) == 2:
            merges.append((spelled(parts[0]), spelled(parts[1])))
    return merges


def _parts(token: bytes, ranks: Mapping[bytes, int], below: int) -> Sequence[bytes]:
    """A token's bytes, merged with the pairs of ranks less than `below`."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        found = [ranks.get(parts[i] + parts[i + 1], below) for i in range(len(parts) - 1)]
        best = min(found)
        if best >= below:
            break
        at = found.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _backend(
    vocab: dict[str, int], merges: list[tuple[str, str]], pattern: Any, path: Path
) -> tokenizers.Tokenizer:
    if not isinstance(pattern, str):
        raise _damaged(path, "has no pat_str")
    try:
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
    except BaseException as error:
        if not (is_library_failure(error) or isinstance(error, ValueError | TypeError)):
            raise
        raise _damaged(path, f"cannot be used ({' '.join(str(error).split())[:80]})") from None
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])
    return backend


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}.", fix="download it again")
