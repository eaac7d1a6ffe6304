"""The error of the CPU backend's products, by weight format and form of the activations.

    python -m benchmarks.cpu_error          measure everything and write docs/formats.md
    python -m benchmarks.cpu_error Q4_K     print a format's errors, write nothing

Against numpy in float64 on the gguf package's decoding: norm of the difference over norm of the
product, standard normal activations, random blocks. Nothing here is timed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
import torch

from rbee_worker.checkpoint.formats import FORMATS, Packed
from rbee_worker.ops.cpu.shared.forms import WITHIN, forms
from rbee_worker.ops.cpu.shared.held import GRID_OF, held_as
from tests.blocks import SCALES, kind_of, values, weights
from tests.ops.cpu.eager import Eager

PAGE = Path(__file__).parents[1] / "docs/formats.md"
COMMAND = "python -m benchmarks.cpu_error"
FLOATS = ("F32", "F16", "BF16")
ROWS, TOKENS = 64, 16
COLS = (576, 1536, 4096)  # rows of blocks of 256 begin with 768 instead
OTHERS = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")  # what grids could have been held as
SIZE = 0.02  # of weights, root mean square
INTRO = f"""# Weight formats

How the `cpu` backend stores a file's weights, and how exact its products are. `reference` expands
every packed tensor to its compute type on load, to the values of the `gguf` package, bit for bit
(`tests/checkpoint/test_decoding.py`). Written by `{COMMAND}`.

## Formats

Bits are per weight, including scales, in the file and in memory. The stored form has the file's
values without rounding, so all error comes from the activations. int8: one byte per number and a
scale per 32, or per 256 in formats with blocks of 256 columns (K formats, most IQ formats), as in
llama.cpp. int16: two bytes, for keys, values, logits and results that are added to the residual
stream. float32: `--exact-activations`, and always for floats, but `--bf16-activations` rounds the
activations of BF16 matrices other than experts' and the head to bfloat16: an error of 1.7e-03, held
to {WITHIN["b16"]:.0e}, with other last bits where the processor has AMX-BF16. `inspect` and `bench`
say what is rounded, and a note where an option changes nothing. An error is the norm of
the difference from float64 / norm, the largest of
those for {COLS[0]} (blocks of 256: 768), {COLS[1]} and {COLS[2]} columns; standard normal
activations, random blocks. `tests/ops/cpu/test_error.py` holds every format to
{WITHIN["i8"]:.1e} (scales for 256: {WITHIN["k8"]:.0e}), {WITHIN["i16"]:.0e} ({WITHIN["k16"]:.0e})
and {WITHIN["exact"]:.0e}. F64, and the 8-bit floats of safetensors
(DeepSeek's, compressed-tensors'), are stored as f32.

| file | bits | stored as | bits | int8 | int16 | float32 |
|---|---|---|---|---|---|---|
"""
GRIDS = f"""
## Why grid points are stored value by value

For 8 or 4 neighbours, an IQ format stores the index of a point in a fixed grid. No kernel looks
points up while it multiplies: loading turns them into one code per weight. Before the scale, IQ1
and IQ2 have 6 different values, so 3 bits; IQ3 has 16, so 4 bits. That is exact. The formats that
the backend already had would be larger, or rounded, or both. The table gives the relative error of
the values (norms) and the bits per weight in memory, for the same random blocks packed again by
the `gguf` package.

| file | bits | stored | {" | ".join(OTHERS)} |
|---|---|---|{"---|" * len(OTHERS)}
"""
TERNARY = """
TQ1_0 and TQ2_0 become Q2_K with scales and minimums of 1: d q - d is exact too.
"""


def bits(name: str) -> float:
    """A weight in the file."""
    return 8 * FORMATS[name].bytes / FORMATS[name].block


def held_bits(name: str) -> float:
    """A weight in memory."""
    held = held_as(name)
    return 8 * held.nbytes / held.columns / 16


def matrix(name: str, cols: int) -> tuple[Packed, np.ndarray]:
    """Random weights [ROWS, cols] as a file has them, and their values in float64."""
    rng = np.random.default_rng(cols)
    if name in FLOATS:
        of = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[name]
        w = torch.from_numpy(rng.normal(0, SIZE, (ROWS, cols))).to(of)
        return Packed(w.view(torch.uint8).numpy(), name, (ROWS, cols)), w.double().numpy()
    raw = weights(name, ROWS, cols, rng, SIZE)
    return Packed(raw, name, (ROWS, cols)), values(name, raw).astype(np.float64)


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """Norm of the difference over norm."""
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def columns(name: str) -> tuple[int, ...]:
    """Widths that are whole blocks."""
    return tuple(c if c % FORMATS[name].block == 0 else 768 for c in COLS)


def errors(name: str, rounded: Eager, exact: Eager, cols: Sequence[int]) -> dict[str, float]:
    """The largest relative error of a product, for each form of activations the format takes."""
    worst: dict[str, float] = {}
    for width in cols:
        packed, w = matrix(name, width)
        x = np.random.default_rng(width + 1).standard_normal((TOKENS, width)).astype(np.float32)
        want, given = x.astype(np.float64) @ w.T, torch.from_numpy(x)
        *packed_forms, last = forms(held_as(name))
        runs = {last: (exact, False)}
        runs |= {form: (rounded, n > 0) for n, form in enumerate(packed_forms)}
        for form, (eager, precise) in runs.items():
            y = eager.linear(given, eager.matrix([packed]), precise=precise)
            worst[form] = max(worst.get(form, 0.0), relative(y.numpy(), want))
    return worst


def again(name: str, other: str) -> float:
    """Relative error of a format's values after packing them again as `other`."""
    _, w = matrix(name, COLS[-1])
    raw = gguf.quants.quantize(w.astype(np.float32), kind_of(other))
    return relative(values(other, raw), w)


def page(found: Mapping[str, Mapping[str, str]], packed: Mapping[str, Mapping[str, str]]) -> str:
    """docs/formats.md, of figures as text: by format and form, and by format and other format."""
    text = INTRO
    for name, row in found.items():
        figures = " | ".join(row.get(form, "-") for form in _columns(name))
        held = f"{held_as(name).name} | {held_bits(name):.4g}"
        text += f"| {name} | {bits(name):.4g} | {held} | {figures} |\n"
    text += GRIDS
    for name, row in packed.items():
        figures = " | ".join(f"{row[o]} in {held_bits(o):.4g}" for o in OTHERS)
        text += f"| {name} | {bits(name):.4g} | 0 in {held_bits(name):.4g} | {figures} |\n"
    return text + TERNARY


def written() -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """The figures in docs/formats.md, as `page` takes them."""
    first, second = PAGE.read_text().split(GRIDS.splitlines()[1])
    found, packed = {}, {}
    for name, *cells in _rows(first):
        taken = zip(_columns(name), cells[3:], strict=True)
        found[name] = {form: cell for form, cell in taken if cell != "-"}
    for name, *cells in _rows(second):
        packed[name] = {o: c.split()[0] for o, c in zip(OTHERS, cells[2:], strict=True)}
    return found, packed


def _columns(name: str) -> tuple[str, ...]:
    """The forms of the table's last three columns."""
    return ("", "", *forms(held_as(name)))[-3:]


def _rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def main(names: Sequence[str]) -> None:
    """Measure the named formats, or all and write the page."""
    rounded, exact = Eager(), Eager(exact=True)
    found = {}
    for name in names or (*FLOATS, *SCALES):
        worst = errors(name, rounded, exact, columns(name))
        found[name] = {form: f"{value:.1e}" for form, value in worst.items()}
        print(name, found[name], flush=True)  # noqa: T201
    rounded.close()
    exact.close()
    if not names:
        grids = [name.upper() for name in GRID_OF]
        packed = {name: {o: f"{again(name, o):.1e}" for o in OTHERS} for name in grids}
        PAGE.write_text(page(found, packed))


if __name__ == "__main__":
    main(sys.argv[1:])
