"""Tile shapes that `warmup` measures: kept by card, read at a start, right whichever they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.models import build_model
from rbee_worker.ops import Weight
from rbee_worker.ops.cuda.device_ops import DeviceOps
from rbee_worker.ops.cuda.kept_shapes import FEW, KeptShapes, Measured, Product, candidates
from rbee_worker.ops.cuda.matrix import DeviceMatrix
from rbee_worker.ops.cuda.traffic import TrafficOps, float_products
from tests.archs import ARCHS
from tests.archs.measure import files
from tests.ops.cuda.near import BOUNDS, error, randn

F16 = torch.float16
CARD = "NVIDIA H200 (141 GB)"


def test_shapes_are_kept_by_card(tmp_path: Path) -> None:
    one, eight = Product(1, 70, 2048, False, F16), Product(8, 70, 2048, False, F16)
    best = candidates(eight)[5]
    kept = KeptShapes(tmp_path, CARD)
    assert kept.of(*one) is None
    assert kept.add({eight.name: Measured(tuple(map(int, best)), 5.0, 7.5)}) == ""
    assert kept.add({one.name: Measured((), 3.0, 3.0)}) == ""
    again = KeptShapes(tmp_path, CARD)
    assert again.of(*eight) == kept.of(*eight) == best
    assert again.of(*one) is None  # the tables' own
    assert again.lines() == [
        "1 rows x 70 x 2048 float16: 3.0 us (tables' shape)",
        "8 rows x 70 x 2048 float16: 5.0 us, 7.5 with the tables' shape",
    ]
    assert KeptShapes(tmp_path, "another card").found == {}
    assert [path.name for path in tmp_path.iterdir()] == ["shapes-nvidia-h200-141-gb-.json"]


@pytest.mark.parametrize("text", ["", "{", '{"8 rows": 5}'])
def test_a_file_that_cannot_be_read_is_not_there(text: str, tmp_path: Path) -> None:
    kept = KeptShapes(tmp_path, CARD)
    kept.add({"x": Measured((), 1.0, 1.0)})
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert KeptShapes(tmp_path, CARD).found == {}


def test_numbers_that_nobody_would_try_are_not_used(tmp_path: Path) -> None:
    eight = Product(8, 70, 2048, False, F16)
    kept = KeptShapes(tmp_path, CARD)
    kept.add({eight.name: Measured((7, 7, 7, 7, 7, 7, 7), 5.0, 7.5)})
    assert kept.of(*eight) is None


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = KeptShapes(tmp_path / "file", CARD)
    assert "file" in kept.add({"x": Measured((), 1.0, 1.0)})


@pytest.mark.parametrize("rows", [1, 5, 20])
def test_products_with_a_kept_shape(rows: int, device: str, tmp_path: Path) -> None:
    """The last shape that would be tried, against float64."""
    few = next(few for few in FEW if rows <= few)
    product = Product(few, 70, 2048, False, F16)
    other = candidates(product)[-1]
    kept = KeptShapes(tmp_path, CARD)
    kept.add({product.name: Measured(tuple(map(int, other)), 1.0, 2.0)})
    ops = DeviceOps(device, "f16", pdl=False)
    ops.shapes = kept
    x, w = randn(rows, 2048, seed=1, dtype=F16), randn(70, 2048, seed=2, dtype=F16, scale=0.02)
    weight = Weight(DeviceMatrix(70, 2048, w), 70, 2048, "F16", "f16", w.nbytes)
    assert kept.of(*product) == other
    assert error(ops.product(x, weight), x.double() @ w.double().T) < BOUNDS[F16]


def test_the_products_of_a_model(tmp_path: Path) -> None:
    """Each once, with its gates; from names and shapes alone."""
    (arch,) = [a for a in ARCHS if a.id == "llama"]
    path = files(arch, tmp_path)["safetensors"]
    ops = TrafficOps("bf16", planes=True, f8=False)
    found = float_products(ops, build_model(open_checkpoint(str(path)), ops))
    c = arch.config()
    assert len(found) == len(set(found))
    assert {one.few for one in found} == set(FEW)
    assert Product(8, 2 * c.intermediate_size, c.hidden_size, True, torch.bfloat16) in found
    assert Product(1, c.vocab_size, c.hidden_size, False, torch.bfloat16) in found
