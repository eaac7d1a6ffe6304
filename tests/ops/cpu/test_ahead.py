"""Weights repacked ahead of the backend are the weights that it would have repacked itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Submit, Tokens
from rbee_worker.loading import load
from rbee_worker.loading.ahead import load_ahead
from rbee_worker.loading.kernels import compile_for
from rbee_worker.models import plan_model
from rbee_worker.ops.cpu.runtime.ahead import HeldAhead, NamedSource
from rbee_worker.ops.cpu.runtime.arena import Arena
from rbee_worker.ops.cpu.runtime.matrix import hold
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.types import SamplingParams
from tests import tiny

FORMATS = ["Q4_0", "Q8_0", "Q4_K", "Q6_K"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write_packed_gguf(tmp_path_factory.mktemp("m") / "m.gguf", FORMATS)


class Counting:
    """A source that counts what is read."""

    def __init__(self, source):
        self._source = source
        self.reads = []

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read(self, name):
        self.reads.append(name)
        return self._source.read(name)


def held_ahead(library, source, order):
    team = Team(library, 1)
    held = HeldAhead(source, library, team, Arena(1 << 24))
    told = []
    held.hold(order, told.append)
    return held, told


def test_every_matrix_is_held_once_and_as_it_would_be_later(best, model):
    ckpt = open_checkpoint(str(model))
    _, plan = plan_model(ckpt, "f32", packed=True)
    assert len(plan.order) >= 4 * tiny.LAYERS
    assert any(len(names) > 1 for names in plan.order)  # stacked: query, key, value
    source = Counting(ckpt.source)
    held, told = held_ahead(best, source, plan.order)
    matrices = {name for names in plan.order for name in names}
    assert sorted(source.reads) == sorted(matrices)
    assert told == sorted(told)
    assert told[-1] == sum(ckpt.source.info(n).nbytes for n in matrices)
    later = NamedSource(source)
    for names in plan.order:
        found = held.take([later.read(n) for n in names])
        own = hold(best, held.team, Arena(1 << 24), [ckpt.source.read(n) for n in names])
        assert (found.rows, found.cols) == (own.rows, own.cols)
        assert found.source_formats == own.source_formats
        for a, b in zip(found.parts, own.parts, strict=True):
            assert (a.held, a.first, a.rows) == (b.held, b.first, b.rows)
            assert np.array_equal(a.data, b.data)
    assert len(source.reads) == len(matrices)  # found by name, not by reading again
    held.team.close()


def test_what_was_made_of_tensors_or_is_not_held_is_not_found(best, model):
    ckpt = open_checkpoint(str(model))
    name = "model.layers.0.mlp.down_proj.weight"
    held, _ = held_ahead(best, ckpt.source, [(name,)])
    whole = NamedSource(ckpt.source).read(name)
    assert held.take([whole]) is not None
    assert held.take([ckpt.source.read(name)]) is None
    assert held.take([whole, whole]) is None
    assert held.take([NamedSource(ckpt.source).read("model.embed_tokens.weight")]) is None
    assert np.array_equal(whole.data, ckpt.source.read(name).data)
    held.team.close()


def generated(begun):
    engine, info = load.finish_engine(begun, lambda _: None)
    engine.submit(Submit(seq="a", prompt_ids=(5, 6, 7), params=SamplingParams(max_tokens=8)))
    ids = []
    while not engine.idle:
        ids += [i for m in engine.step() if isinstance(m, Tokens) for i in m.ids]
    return ids, info


def test_an_engine_is_the_same_with_and_without(model, monkeypatch):
    settings = Settings(model=str(model), backend="cpu", threads=1)
    ckpt = open_checkpoint(str(model))
    compile_for(ckpt, settings, "f16")
    told = []
    begun = load_ahead(settings, told.append)
    assert begun.held is not None
    done = [t.bytes_loaded for t in told if t.stage == "loading"]
    assert done == sorted(done)
    assert 0 < done[-1] <= told[-1].bytes_total
    source = Counting(begun.ckpt.source)
    ahead, info = generated(replace(begun, ckpt=replace(begun.ckpt, source=source)))
    monkeypatch.setattr(load, "repacked", lambda *_: None)
    later, same = generated(replace(begun, held=None))
    assert ahead == later
    assert len(ahead) == 8
    assert info.weight_bytes == same.weight_bytes
    assert not [n for n in source.reads if n.endswith("proj.weight")]
