"""The memory of pictures' features is planned before anything is loaded, and `inspect` shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.cli.inspect import _memory
from rbee_worker.cli.report import memory_plan
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Submit, Tokens
from rbee_worker.errors import CheckpointError, UsageError
from rbee_worker.loading.load import load_engine
from rbee_worker.loading.memory import plan_features
from rbee_worker.loading.preflight import preflight
from rbee_worker.models import build_model
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.state.specs import TileSpec
from rbee_worker.types import SamplingParams
from tests import seeing


def settings(**changes: Any) -> Settings:
    return Settings(model="x", backend="reference", **changes)


def test_room_for_a_step_and_for_pictures_that_come_again() -> None:
    small = TileSpec(side=32, patches=64, rows=16, width=64)
    large = TileSpec(side=896, patches=4096, rows=256, width=2560)
    found = plan_features(small, settings(token_budget=512))
    assert found is not None
    assert (found.slots, found.nbytes) == (512 // 64 + 64, (512 // 64 + 64) * 16 * 64 * 4)
    found = plan_features(large, settings(token_budget=512))
    assert found is not None
    assert found.slots == 1 + (1 << 26) // (256 * 2560 * 4)
    assert plan_features(None, settings()) is None


def test_it_is_shown_and_taken_from_the_cache(tmp_path: Path) -> None:
    ckpt = open_checkpoint(str(seeing.write("smolvlm", tmp_path)))
    ahead = preflight(ckpt, settings())
    assert ahead.features is not None
    plan, trouble = memory_plan(ahead, settings(), 1 << 30, heads=4)
    assert not trouble
    line = next(text for text in _memory(plan) if text.startswith("pictures"))
    assert line.endswith("features of 72 tiles of 32 x 32 pixels, 16 tokens each")
    assert plan["pictures"]["nbytes"] == ahead.features.nbytes == 72 * 16 * 64 * 4


def test_a_step_must_have_room_for_a_picture_that_cannot_be_cut(tmp_path: Path) -> None:
    ckpt = open_checkpoint(str(seeing.write("gemma3", tmp_path)))
    preflight(ckpt, settings(token_budget=16))
    with pytest.raises(UsageError, match="--token-budget 15 is less than the 16 tokens of a"):
        preflight(ckpt, settings(token_budget=15))


@pytest.mark.parametrize(
    ("said", "mean", "std"),
    [
        ({}, (0.5,) * 3, (0.5,) * 3),
        ({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2] * 3}, (0.4, 0.5, 0.6), (0.2,) * 3),
        (
            {"image_mean": [0.5] * 3, "image_std": [1] * 3, "do_normalize": False},
            (0,) * 3,
            (1,) * 3,
        ),
        # pixels * factor = 2 * pixels / 255, so half of both
        (
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 2 / 255},
            (0.25,) * 3,
            (0.25,) * 3,
        ),
    ],
)
def test_colours_are_normalised_as_the_preprocessor_says(
    said: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path
) -> None:
    seeing.write("smolvlm", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    tower = build_model(open_checkpoint(str(tmp_path)), ReferenceOps()).tower
    assert tower is not None
    assert tower.mean == pytest.approx(mean)
    assert tower.std == pytest.approx(std)


def test_colours_that_are_none_are_refused(tmp_path: Path) -> None:
    seeing.write("smolvlm", tmp_path)
    said = {"image_mean": [0.5, "x", 0.5], "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="image_mean, image_std and rescale_factor cannot"):
        open_checkpoint(str(tmp_path))


def test_a_loaded_engine_reads_a_picture(tmp_path: Path) -> None:
    """From files to an answer, as the worker's process does it."""
    seeing.write("smolvlm", tmp_path)
    engine, info = load_engine(
        Settings(model=str(tmp_path), backend="reference", threads=1, kv_tokens=512),
        lambda loading: None,
    )
    assert info.purpose.pictures
    given = seeing.prompt("smolvlm", [3, (2, 1), 4])
    params = SamplingParams(temperature=0.0, max_tokens=4)
    engine.submit(Submit(seq="a", prompt_ids=given.ids, params=params, pictures=given.pictures))
    ids: list[int] = []
    while not engine.idle:
        ids += [token for out in engine.step() if isinstance(out, Tokens) for token in out.ids]
    want = seeing.logits("smolvlm", given, ids)[len(given.ids) - 1 : -1].argmax(-1)
    assert ids == want.tolist()
