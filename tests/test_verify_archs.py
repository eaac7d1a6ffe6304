"""Every row of tests/archs through `verify`'s own path: each layer alone, in all of its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.activations import ACT2FN

from rbee_worker.verify.compare import Comparison, Step
from rbee_worker.verify.corrected import gemma_gelu
from tests.archs import ARCHS, Arch
from tests.archs.measure import measured


@pytest.mark.parametrize("arch", ARCHS, ids=[a.id for a in ARCHS])
def test_every_layer_of_every_file(arch: Arch, tmp_path: Path) -> None:
    for kind, comparison in measured(arch, tmp_path).items():
        assert comparison.ok, (
            f"{arch.id}, {kind}: {comparison}; is this how HF's class has the file's weights "
            "(rbee_worker/verify/regrouped.py)?"
        )
        assert len(comparison.steps) == arch.config().num_hidden_layers + 2


def test_a_comparison_names_the_layers_that_are_wrong() -> None:
    steps = tuple(
        Step(n, e, a) for n, e, a in (("embedding", 0, 0), ("layer 0", 9, 2e-3), ("logits", 0.5, 0))
    )
    assert (
        str(Comparison(steps, 1, 1, 0, 1e-4))
        == "wrong alone: layer 0 2.0e-03; the logits differ by 5.0e-01"
    )
    fine = Comparison((Step("layer 0", 0, 0), Step("logits", 1e-6, 0)), 1, 1, 0, 1e-4)
    assert str(fine) == "every layer alone is right; the logits differ by 1.0e-06"


def test_gemmas_gelu_is_the_tanh_form_in_every_version_of_transformers() -> None:
    (arch,) = (a for a in ARCHS if a.id == "gemma-mqa")
    model = arch.model(arch.config())  # of its own: oracles are shared
    x = torch.linspace(-4, 4, 97)
    want = torch.nn.functional.gelu(x, approximate="tanh")
    for layer in model.model.layers:
        assert torch.equal(layer.mlp.act_fn(x), want)  # whichever version this is
        layer.mlp.act_fn = ACT2FN["gelu"]  # as 5.17 has it
        assert (layer.mlp.act_fn(x) - want).abs().max() > 1e-4
    gemma_gelu(model)
    assert all(torch.equal(layer.mlp.act_fn(x), want) for layer in model.model.layers)
