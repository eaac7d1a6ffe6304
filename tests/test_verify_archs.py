"""Every row of tests/archs through `verify`'s own path: each layer alone, in all of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.archs import ARCHS, Arch
from tests.archs.measure import GGUF, SAFETENSORS, measured


@pytest.mark.parametrize("arch", ARCHS, ids=[a.id for a in ARCHS])
def test_every_layer_of_every_file(arch: Arch, tmp_path: Path) -> None:
    found = measured(arch, tmp_path)
    assert set(found) == {SAFETENSORS} | ({GGUF} if arch.gguf_arch is not None else set())
    for kind, comparison in found.items():
        assert comparison.ok, (kind, comparison)
        assert len(comparison.steps) == arch.config().num_hidden_layers + 2
