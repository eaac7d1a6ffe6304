"""How products hold packed weights on the device, and how they get there.

A chunk is 64 neighbouring values of a row. 32 rows are interleaved, so that a warp which loads the
same word of four chunks, 16 bytes a thread, reads whole lines of memory. A matrix is
int32 [rows / 32][chunks of a row][W words][32 rows]; the words of a chunk, by format:

    values in half bytes (8 words): word j has values 8j to 8j + 3 in the low half bytes of its four
      bytes, 8j + 4 to 8j + 7 in the high ones; if they are codes of a table, word j has values 8j
      to 8j + 7 from its lowest half byte to its highest
    values in bytes (16 words); values in pairs of bits (4 words): pair f of byte b of word t is
      value 16t + 4f + b
    a further pair of bits of each value (4 words), likewise; or a further bit (2 words): bit f of
      byte b of word t belongs to value 32t + 4f + b
    scales (1 or 2 words): two float16, then two float16 minimums; or four bytes

Formats with blocks of 256 values also have int32 [rows / 32][cols / 256][32 rows]: a block's
float16 scale in the low half, the scale of its minimums in the high half. The bytes of a file grow
by 3 % in Q4_K and 9 % in IQ4_XS, whose scales of 6 bits become bytes. Rows are filled up to a
multiple of 32, and columns to a multiple of 64, with values whose scales are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rbee_worker.checkpoint.formats import FORMATS
from rbee_worker.ops.cuda.kernels.packed.codes import TAKEN

ROWS, CHUNK = 32, 64
WORDS = {  # words of a chunk
    "Q4_0": 9,
    "Q4_1": 10,
    "Q5_0": 11,
    "Q5_1": 12,
    "Q8_0": 17,
    "Q2_K": 5,
    "Q3_K": 7,
    "Q4_K": 9,
    "Q5_K": 11,
    "Q6_K": 13,
    "IQ4_NL": 9,
    "IQ4_XS": 9,
    "MXFP4": 9,
    "TQ1_0": 5,
    "TQ2_0": 5,
}
HELD_AS = {"TQ1_0": "Q2_K", "TQ2_0": "Q2_K"}  # formats that are held as another one, exactly
_TABLED = {"IQ4_NL", "IQ4_XS", "MXFP4"}
_SPAN_VALUES = 1 << 26  # repacked at a time: the temporary tensors take about 16 bytes a value


@dataclass(frozen=True)
class PackedPart:
    """Rows of a matrix in one format, laid out as this module says; see `HELD_AS`.

    data: int32 [rows / 32 rounded up, cols / 64 rounded up, W, 32]. block: int32 [rows / 32 rounded
    up, cols / 256, 32] or None.
    """

    data: Tensor
    block: Tensor | None
    format: str
    rows: int
    cols: int

    @property
    def nbytes(self) -> int:
        """Bytes in the device's memory."""
        return self.data.nbytes + (0 if self.block is None else self.block.nbytes)

    def row_range(self, start: int, stop: int) -> PackedPart:
        """Rows start to stop - 1, sharing memory. `start` is a multiple of 32, and so is `stop`
        unless it is the last row."""
        assert start % ROWS == 0
        assert stop % ROWS == 0 or stop == self.rows
        blocks = slice(start // ROWS, -(-stop // ROWS))
        block = None if self.block is None else self.block[blocks]
        return replace(self, data=self.data[blocks], block=block, rows=stop - start)


def joined(parts: Sequence[PackedPart]) -> list[PackedPart]:
    """The same rows in the same order, with neighbours of one format joined into one part (a copy)
    where the first one's rows are a multiple of 32: fewer and larger products."""
    runs: list[list[PackedPart]] = []
    for part in parts:
        last = runs[-1][-1] if runs else None
        if last is None or last.format != part.format or last.rows % ROWS:
            runs.append([])
        runs[-1].append(part)
    return [run[0] if len(run) == 1 else _one(run) for run in runs]


def _one(parts: Sequence[PackedPart]) -> PackedPart:
    """Parts of one format as one; all but the last have a multiple of 32 rows."""
    data = torch.cat([part.data for part in parts])
    blocks = [part.block for part in parts if part.block is not None]
    rows = sum(part.rows for part in parts)
    return replace(parts[0], data=data, block=torch.cat(blocks) if blocks else None, rows=rows)


def repack(raw: Tensor, format: str, rows: int, cols: int) -> PackedPart:
    """`raw`, uint8 rows of whole blocks as in the file, contiguous, on any device, as a part on
    that device. `format` is one of `WORDS`."""
    form = FORMATS[format]
    assert raw.dtype == torch.uint8
    assert cols % form.block == 0
    assert raw.numel() * form.block == rows * cols * form.bytes
    groups, chunks = -(-rows // ROWS), -(-cols // CHUNK)
    shape = (groups, chunks, WORDS[format], ROWS)
    data = torch.empty(shape, dtype=torch.int32, device=raw.device)
    block = None
    if form.block == 256:
        block = torch.empty((groups, cols // 256, ROWS), dtype=torch.int32, device=raw.device)
    raw = raw.view(rows, -1)
    step = max(1, _SPAN_VALUES // (cols * ROWS))
    for at in range(0, groups, step):
        span = slice(at, min(at + step, groups))
        some = raw[at * ROWS : span.stop * ROWS]
        words, large = _words(some, format, cols)
        data[span] = _interleaved(words)
        if block is not None and large is not None:
            block[span] = _interleaved(large.unsqueeze(2))[:, :, 0]
    return PackedPart(data, block, HELD_AS.get(format, format), rows, cols)


def _interleaved(words: Tensor) -> Tensor:
    """int32 [rows, chunks, W] -> [rows / 32 rounded up, chunks, W, 32]."""
    rows, chunks, count = words.shape
    padded = torch.nn.functional.pad(words, (0, 0, 0, 0, 0, -rows % ROWS))
    return padded.view(-1, ROWS, chunks, count).permute(0, 2, 3, 1)


def _words(raw: Tensor, format: str, cols: int) -> tuple[Tensor, Tensor | None]:
    """Some rows: int32 [rows, chunks, W], and int32 [rows, cols / 256] or None."""
    rows, form = len(raw), FORMATS[format]
    parts = TAKEN[format](raw.reshape(-1, form.bytes))
    codes = torch.nn.functional.pad(parts.codes.reshape(rows, cols), (0, -cols % CHUNK))
    words = _value_words(codes.view(rows, -1, CHUNK), HELD_AS.get(format, format))
    for scales in parts.scales:
        of_row = scales.reshape(rows, -1)  # two bytes for 32 values, or four for 64
        padded = torch.nn.functional.pad(of_row, (0, -of_row.shape[1] % 4))
        words.append(padded.contiguous().view(torch.int32).unsqueeze(2))
    return torch.cat(words, 2), None if parts.block is None else parts.block.view(rows, -1)


def _value_words(codes: Tensor, format: str) -> list[Tensor]:
    """Codes uint8 [rows, chunks, 64] as words, int32 [rows, chunks, count] each."""
    if format in _TABLED:
        return [_gathered(codes, (8, 4, 2), 4, 4)]
    if format == "Q8_0":
        return [_gathered(codes, (16, 4), 3, 8)]
    if format in ("Q2_K", "Q3_K"):
        words = [_gathered(codes & 3, (4, 4, 4), 3, 2)]
        return [*words, _gathered(codes >> 2, (2, 8, 4), 3, 1)] if format == "Q3_K" else words
    words = [_gathered(codes & 15, (8, 2, 4), 3, 4)]
    if format == "Q6_K":
        words.append(_gathered(codes >> 4, (4, 4, 4), 3, 2))
    elif format.startswith("Q5"):
        words.append(_gathered(codes >> 4, (2, 8, 4), 3, 1))
    return words


def _gathered(codes: Tensor, shape: tuple[int, ...], fields: int, bits: int) -> Tensor:
    """64 codes as `shape`, of whose dimension `fields` a byte holds each entry in its next `bits`
    bits; the other dimensions are words and the bytes of a word: int32 [rows, chunks, words]."""
    split = codes.view(*codes.shape[:2], *shape)
    if bits < 8:
        each = split.unbind(fields)
        whole = each[0]
        for number, code in enumerate(each[1:], 1):
            whole = whole | (code << (bits * number))
    else:
        whole = split
    return whole.contiguous().view(torch.int32)[..., 0]
