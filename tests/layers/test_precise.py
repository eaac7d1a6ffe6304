"""Which products a backend that rounds activations is to round less."""

from pathlib import Path

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.models import build_model
from rbee_worker.ops.reference.ops import ReferenceOps
from tests import tiny


def test_the_maps_of_the_last_layer_are_precise_and_no_others(tmp_path: Path) -> None:
    path = tiny.write_safetensors(tmp_path / "m")
    blocks = build_model(open_checkpoint(str(path)), ReferenceOps()).blocks
    assert len(blocks) > 1
    said = [block.mlp.gate_up.precise for block in blocks]  # type: ignore[attr-defined]
    assert said == [False] * (len(blocks) - 1) + [True]
