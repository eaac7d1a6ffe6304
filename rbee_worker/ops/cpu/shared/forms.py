"""The forms in which activations enter a matrix product; a kernel's variant names one.

i8: one byte a number and one scale for 32 columns, as in llama.cpp. i16: two bytes a number, where
rounding would last (keys, values) or show directly (logits). k8, k16: the same with one scale for
256 columns, as in llama.cpp for formats with units of 256: the scales of their blocks are integers,
so sums stay integers up to the end of a unit. exact: float32. b16: bfloat16, for bf16 weights if
that is asked for. `kernels/product/steps.py` and `k_steps.py` describe the layouts. Torch-free;
kernels and the engine both import it.
"""

from __future__ import annotations

from rbee_worker.ops.cpu.shared.held import HELD, Held

TOKENS = 8  # tokens whose prepared activations are interleaved
CELL = 32  # columns of a block of prepared activations
# Relative error (norm of the difference over norm) of a product with standard normal activations.
# The tests hold every format to it; docs/formats.md has the measured values.
WITHIN = {"i8": 7.5e-3, "i16": 3e-5, "k8": 9e-3, "k16": 4e-5, "exact": 5e-7, "b16": 2e-3}
BYTES = {"i8": 64, "i16": 96, "k8": 64, "k16": 96, "exact": 144, "b16": 64}  # of a token's block
B16, B16_TAKES = "b16", "bf16"  # the form, and the held format that takes it
# Ends the variant of a product in form b16 for processors that multiply bfloat16 themselves. Every
# other one gets the same sums, in twice the instructions.
NATIVE = "-native"
# The same for processors that also have tiles for bfloat16. Where the instruction set has none, the
# kernel is that of NATIVE.
TILES = "-tiles"
UNIT = 256  # columns of a unit of a K format
UNITS = ("k8", "k16")  # forms with one scale for that many columns
LOW = 64  # offset of the second bytes in i16 and k16
SCALE, SUM = 32, 40  # offsets in all but `exact`


def natural(held: Held) -> str:
    """The form of a variant without a suffix. Float weights never round activations."""
    if held.is_float:
        return "exact"
    return "k8" if held.columns == UNIT else "i8"


def precise(form: str) -> str:
    """The form with two bytes a number instead of one."""
    return {"i8": "i16", "k8": "k16"}.get(form, form)


def forms(held: Held) -> tuple[str, ...]:
    """All forms that its products take."""
    return tuple(dict.fromkeys((natural(held), precise(natural(held)), "exact")))


def at_once(form: str) -> int:
    """Blocks of 32 columns that are rounded together."""
    return UNIT // CELL if form in UNITS else 1


def variant(held: Held, form: str) -> str:
    """The name of a product kernel's variant, without its family."""
    return held.name if form == natural(held) else f"{held.name}-{form}"


def parse(name: str) -> tuple[Held, str]:
    """The inverse of `variant`."""
    held_name, _, form = name.removesuffix(NATIVE).removesuffix(TILES).partition("-")
    held = HELD[held_name]
    return held, form or natural(held)
