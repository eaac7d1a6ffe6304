"""Matrices have their memory at once and their contents after a flush, several at a time."""

from __future__ import annotations

import numpy as np
import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.formats import Packed
from rbee_worker.models import build_model
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.runtime import matrix
from rbee_worker.ops.cpu.runtime.arena import Arena
from rbee_worker.ops.cpu.runtime.matrix import Holder
from rbee_worker.ops.cpu.runtime.team import Team
from tests import tiny


@pytest.fixture(scope="module")
def team(best):
    team = Team(best, 3)
    yield team
    team.close()


def random_matrix(seed, rows, cols):
    values = np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)
    return Packed(values.view(np.uint8), "F32", (rows, cols))


def hold(library, team, packed):
    """One matrix with its contents."""
    holder = Holder(library, team, Arena(1 << 24))
    made = holder.hold([packed])
    holder.flush()
    return made


SHAPES = [(16, 32), (40, 64), (1, 7), (300, 32), (17, 100)]


def test_contents_come_with_the_flush_and_do_not_depend_on_the_company(best, team):
    together = Holder(best, team, Arena(1 << 22))
    given = [random_matrix(n, *shape) for n, shape in enumerate(SHAPES)]
    made = [together.hold([one]) for one in given]
    assert not any(part.data.any() for m in made for part in m.parts)
    together.flush()
    for one, got in zip(given, made, strict=True):
        want = hold(best, team, one)
        assert (got.rows, got.cols, got.nbytes) == (want.rows, want.cols, want.nbytes)
        for a, b in zip(got.parts, want.parts, strict=True):
            assert np.array_equal(a.data, b.data)
    before = [part.data.copy() for m in made for part in m.parts]
    together.flush()  # nothing is pending
    assert all(np.array_equal(a, p.data) for a, p in zip(before, made[0].parts, strict=False))


def test_what_is_pending_is_bounded(best, team, monkeypatch):
    monkeypatch.setattr(matrix, "BATCH_BYTES", 3 * 64 * 64 * 4)
    holder = Holder(best, team, Arena(1 << 22))
    made = [holder.hold([random_matrix(n, 64, 64)]) for n in range(7)]
    held = [m.parts[0].data.any() for m in made]
    assert held == [True] * 6 + [False]  # in batches of three
    holder.flush()
    assert made[6].parts[0].data.any()


def test_a_model_is_whole_when_it_is_built(best, team, tmp_path):
    """And the file's pages may have left memory by then."""
    path = tiny.write_packed_gguf(tmp_path / "m.gguf", ["Q4_0", "Q6_K"])
    ckpt = open_checkpoint(str(path))
    ops = CpuOps(best, team)
    model = build_model(ckpt, ops)
    for name, weight in {
        "model.embed_tokens.weight": model.embed,
        "model.layers.1.mlp.down_proj.weight": model.blocks[1].mlp.down.weight,
    }.items():
        want = hold(best, team, ckpt.source.read(name))
        assert np.array_equal(weight.data.parts[0].data, want.parts[0].data)
