"""How activations are made ready for a matrix product: a form is what a kernel's variant names.

i8: as llama.cpp, one byte a number and one scale for 32 columns. i16: two bytes a number, for
products whose rounding would last (keys, values) or show at once (logits). exact: float32.
The layouts stand in `tile.py`. Torch-free; kernels and the engine both import it.
"""

from __future__ import annotations

from rbee_worker.ops.cpu.held import HELD, Held

TOKENS = 8  # tokens whose prepared activations lie together
CELL = 32  # columns of a block of prepared activations
# Relative error (norm of the difference over norm) of a product with standard normal activations:
# what the tests hold every format to; docs/formats.md has what was measured.
WITHIN = {"i8": 7.5e-3, "i16": 3e-5, "exact": 5e-7}
BYTES = {"i8": 64, "i16": 96, "exact": 144}  # of one token's block


def natural(held: Held) -> str:
    """The form that a variant without a suffix takes: float weights never round activations."""
    return "exact" if held.is_float else "i8"


def variant(held: Held, form: str) -> str:
    """The name of a product kernel's variant, without its family."""
    return held.name if form == natural(held) else f"{held.name}-{form}"


def parse(name: str) -> tuple[Held, str]:
    """The inverse of `variant`."""
    held_name, _, form = name.partition("-")
    held = HELD[held_name]
    return held, form or natural(held)
