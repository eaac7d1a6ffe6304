"""Every row of tests/archs through `verify`'s own path: each layer alone, in all of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.archs import ARCHS, Arch
from tests.archs.measure import measured


@pytest.mark.parametrize("arch", ARCHS, ids=[a.id for a in ARCHS])
def test_every_layer_of_every_file(arch: Arch, tmp_path: Path) -> None:
    for kind, comparison in measured(arch, tmp_path).items():
        assert comparison.ok, (
            f"{arch.id}, {kind}: {comparison}; is this how HF's class has the file's weights "
            "(rbee_worker/verify/families.py)?"
        )
        assert len(comparison.steps) == arch.config().num_hidden_layers + 2
