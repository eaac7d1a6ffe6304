"""`rbee-worker verify`: does this worker compute a checkpoint as transformers does? Exit 1 if
not."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import click
import msgspec
from click.exceptions import Exit

from rbee_worker.cli.adapter import refuse_adapters
from rbee_worker.cli.terminal import Status, bold
from rbee_worker.config import Settings
from rbee_worker.extras import need
from rbee_worker.observe.visible import visible


@click.argument("ref", required=False, help="the model (default: RBEE_MODEL, else smollm2)")
@click.option(
    "--against", metavar="REF", help="the checkpoint for transformers (default: the model)"
)
@click.option(
    "--tokens",
    metavar="N",
    type=int,
    default=70,
    show_default=True,
    help="random ids to compare on",
)
@click.option(
    "--tolerance",
    metavar="X",
    type=float,
    help="largest error (default 1e-4 in f32, more if rounded)",
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def verify(
    settings: Settings,
    ref: str,
    against: str | None,
    tokens: int,
    tolerance: float | None,
    as_json: bool,
) -> None:
    """Compare every layer with transformers; exit with 1 if they differ."""
    refuse_adapters(settings, "verify")
    need("torch", "transformers", "safetensors")
    from rbee_worker.verify.run import verify_report

    status = Status()
    try:
        found = verify_report(
            settings, against=against, tokens=tokens, tolerance=tolerance, say=status.show
        )
    finally:
        status.clear()
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        sys.stdout.writelines(visible(line) + "\n" for line in lines(found))
    if not found["ok"]:
        raise Exit(1)


class _Rounding(NamedTuple):
    """What activations are rounded to, and the option that leaves that out."""

    to: str
    without: str


_ROUNDED = {
    "i8": _Rounding("8 bits", "--exact-activations"),
    "bf16": _Rounding("bf16", "--no-bf16-activations"),
}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A report as lines of text: what was compared, a table of errors, the verdict.

    `error`: relative error (norm of the difference / norm) of the states after this layer; `alone`:
    the same for this layer alone, computed from transformers' states before it.
    """
    other, limit = found["against"], found["tolerance"]
    rounding = (
        _ROUNDED.get(found["activations"]) if found["activations"] != found["dtype"] else None
    )
    rounded = f", activations in {rounding.to}" if rounding else ""
    yield (
        f"{found['ref']} ({found['architecture']}) in {found['dtype']}{rounded}, "
        f"by {found['backend']}, {found['tokens']} tokens"
    )
    yield f"against {other['model']}, float32; weights {other['weights']}"
    if other["ref"] != found["ref"]:
        yield f"weights of {other['ref']}"
    yield ""
    yield f"{'':<12}{'error':>10}{'alone':>10}"
    for step in found["steps"]:
        mark = "" if step["alone"] <= limit else "  <- beyond the tolerance"
        yield f"{step['name']:<12}{step['error']:>10.1e}{step['alone']:>10.1e}{mark}"
    logits = found["logits"]
    yield ""
    kind = found["compared"]
    words = f"{kind} differ by {logits['max']:.1e} at most, {logits['mean']:.1e} on average"
    if kind == "logits":
        words += f"; the most likely token is the same at {logits['same_token']:.1%} of positions"
    yield words
    yield f"worst: {found['worst']}"
    if rounding:
        yield f"the tolerance allows for rounding; {rounding.without} compares within 0.0001"
    if found["ok"]:
        yield bold(f"equal within {limit:g}", sys.stdout)
    else:
        at = found["first_differing"]
        said = f"{at} is the first that differs" if at else "the errors add up in the logits"
        yield bold(f"NOT equal within {limit:g}: {said}", sys.stdout)
