"""How much `--quantize fp8` changes a model's predictions: [REF] [--tokens N].

Runs on the CPU: torch multiplies in float32 what the GPU multiplies in 8-bit floats, with the same
roundings of weights (a scale for each row) and, unless a step has one row, of activations (a scale
for each row). Compared with bf16 weights: Kullback-Leibler divergence of the next token's
distribution, how often the most likely token is the same, and perplexity of the text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.formats import Packed
from rbee_worker.models import build_model
from rbee_worker.ops import Weight
from rbee_worker.ops.cuda.matrix import quantized
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.tokenizer.load import load_tokenizer
from tests.driver import Driver

TEXT = Path(__file__).parents[1] / "docs" / "design.md"


class Rounded(ReferenceOps):
    """Matrices rounded to bf16, then, if `eight`, to 8-bit floats; activations too if `rows`."""

    def __init__(self, *, eight: bool, rows: bool) -> None:
        super().__init__()
        self._eight, self._rows = eight, rows

    def matrix(self, parts: Sequence[Packed]) -> Weight:
        """See `Ops.matrix`."""
        weight = super().matrix(parts)
        data = weight.data.bfloat16().float()
        return replace(weight, data=in_8_bits(data) if self._eight else data)

    def linear(
        self, x: Tensor, weight: Weight, bias: Tensor | None = None, *, precise: bool = False
    ) -> Tensor:
        """See `Ops.linear`."""
        given = in_8_bits(x) if self._rows else x.bfloat16().float()
        return super().linear(given, weight, bias, precise=precise)


def in_8_bits(x: Tensor) -> Tensor:
    """What is left of x after its rows were rounded to 8-bit floats."""
    values, scales = quantized(x)
    return values.float() * scales[:, None]


@torch.inference_mode()
def predicted(ref: str, tokens: list[int], *, eight: bool, rows: bool) -> Tensor:
    """The logarithms of every next token's probabilities, float64 [N, vocab]."""
    driver = Driver(build_model(open_checkpoint(ref), Rounded(eight=eight, rows=rows)))
    (logits,) = driver.feed([(driver.start(tokens), len(tokens))])
    return torch.log_softmax(torch.as_tensor(logits).double(), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ref", nargs="?", default="smollm2")
    parser.add_argument("--tokens", type=int, default=512)
    asked = parser.parse_args()
    tokenizer = load_tokenizer(open_checkpoint(asked.ref))
    tokens = tokenizer.encode(TEXT.read_text())[: asked.tokens]
    following = torch.tensor(tokens[1:])[:, None]
    base: Tensor | None = None
    for name, eight, rows in (
        ("bf16", False, False),
        ("8-bit weights", True, False),
        ("8-bit weights and activations", True, True),
    ):
        found = predicted(asked.ref, tokens, eight=eight, rows=rows)
        base = found if base is None else base
        divergence = (base.exp() * (base - found)).sum(1).mean()
        same = (base.argmax(1) == found.argmax(1)).double().mean()
        perplexity = torch.exp(-found[:-1].gather(1, following).mean())
        sys.stdout.write(
            f"{name:<30} KL {divergence:.5f}  top-1 {same:.2%}  perplexity {perplexity:.3f}\n"
        )


if __name__ == "__main__":
    main()
