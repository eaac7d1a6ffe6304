"""SentencePiece's compiled character map, checked before a library walks it.

Layout (SentencePiece, normalizer.cc; Darts-clone for the units): the size in bytes of an array of
32-bit units, the units of a double-array trie, then the replacement texts, each with a zero byte at
its end. A walk goes from unit i, whose top bit is clear, to `i ^ offset(unit)`. If bit 8 of the
unit is set, that unit has the position of a replacement. The walk continues at one of the 256 units
around it.
"""

from __future__ import annotations

import numpy as np

from rbee_worker.errors import CheckpointError

_LEAF = np.uint32(1 << 31)


def check_charsmap(data: bytes) -> bytes:
    """`data` itself, if no walk through it can leave it. Raises CheckpointError otherwise."""
    if not data:
        return data
    size = int.from_bytes(data[:4], "little")
    if size % 4 or not size or size > len(data) - 4:
        raise _damaged()
    units = np.frombuffer(data, "<u4", size // 4, offset=4)
    texts = np.frombuffer(data, "u1", offset=4 + size)
    inner = np.nonzero(units & _LEAF == 0)[0]
    offset = (units[inner] >> 10) << ((units[inner] & 0x200) >> 6)
    to = inner ^ offset
    if ((to | 0xFF) >= len(units)).any():
        raise _damaged()
    places = units[to[units[inner] & 0x100 != 0]] & ~_LEAF
    if (places > len(texts)).any():
        raise _damaged()
    starts = texts[places[places < len(texts)]]
    if (starts & 0xC0 == 0x80).any():  # inside a character
        raise _damaged()
    try:
        texts.tobytes().decode()
    except UnicodeDecodeError as e:
        raise _damaged() from e
    return data


def longest_replacement(data: bytes) -> int:
    """The most characters that a checked map puts in place of one."""
    if not data:
        return 1
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max(1, *(len(text.decode()) for text in texts.split(b"\0")))


def _damaged() -> CheckpointError:
    return CheckpointError(
        "the tokenizer's character map is damaged", fix="convert or download the model again"
    )
