"""What a model takes on the device is what was planned; options without an effect are refused."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from benchmarks.family_shapes import config_of
from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.formats import Packed
from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.loading.preflight import outline_of
from rbee_worker.models import build_model
from rbee_worker.models.random import RandomSource, open_model
from rbee_worker.ops import Ops
from rbee_worker.ops.cuda.backend import BACKEND
from rbee_worker.ops.cuda.ops import CudaOps
from rbee_worker.ops.cuda.plan import CudaPlanOps
from rbee_worker.ops.cuda.traffic import TrafficOps, bytes_read
from rbee_worker.ops.plan import blank
from tests.ops.cuda.near import DEVICE

CONFIG: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 64,
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


@pytest.fixture
def shape(tmp_path: Path) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return str(path)


class EightBits(RandomSource):
    """Projections in 8-bit floats with scales, as FP8 checkpoints have them: zeros."""

    def read(self, name: str) -> Packed:
        if self.formats[name] == "F8_B128":
            return blank("F8_B128", self.shapes[name])
        return super().read(name)


def opened(format: str, shape: str) -> Checkpoint:
    if format != "f8_b128":
        return open_model(f"random:{format}:{shape}")
    ckpt = open_model(f"random:bf16:{shape}")
    source = cast(RandomSource, ckpt.source)
    formats = {
        name: "F8_B128" if name.endswith("_proj.weight") else form
        for name, form in source.formats.items()
    }
    assert sum(".experts." in name for name, form in formats.items() if form == "F8_B128") == 3
    return replace(ckpt, source=EightBits(formats, source.shapes))


def stored(held: Any) -> int:
    """The bytes of all tensors that a matrix or a stack consists of."""
    if isinstance(held, torch.Tensor):
        return held.nbytes
    if is_dataclass(held):
        return sum(stored(getattr(held, field.name)) for field in fields(held))
    return sum(map(stored, held)) if isinstance(held, tuple) else 0


class Counted(CudaOps):
    """Adds up what each matrix takes, which is what it says."""

    taken = 0

    def matrix(self, parts: Any) -> Any:
        return self._counted(super().matrix(parts))

    def stack(self, members: Any) -> Any:
        return self._counted(super().stack(members))

    def _counted(self, weight: Any) -> Any:
        assert weight.nbytes == stored(weight.data)
        self.taken += weight.nbytes
        return weight


@pytest.mark.parametrize(
    ("format", "forms"),
    [
        ("q4_k", {"resident": True}),
        ("q4_k", {"resident": False}),
        ("q4_k", {"resident": False, "integers": False}),
        ("q8_0", {"resident": False}),
        ("q8_0", {"planes": False}),
        ("bf16", {"resident": True}),
        ("bf16", {"f8": True}),
        ("q8_0", {"f8": True}),
        ("f8_b128", {}),
        ("f8_b128", {"planes": False}),
        ("f8_b128", {"f8": True}),
    ],
    ids=str,
)
def test_the_plan_is_what_is_stored(shape: str, format: str, forms: dict[str, bool]) -> None:
    ckpt = opened(format, shape)
    plan, ops = CudaPlanOps("f32", **forms), Counted(DEVICE, "f32", **forms)
    outline_of(ckpt, 64).build(cast(Ops, plan))
    build_model(ckpt, ops)
    vectors = sum(use.held_bytes for (form, _), use in plan.uses.items() if form == "F32")
    assert sum(plan.held_bytes.values()) - vectors == ops.taken


def test_quantizing_says_what_it_leaves_and_refuses_what_it_cannot(shape: str) -> None:
    settings = Settings(backend="cuda", quantize="fp8", dtype="bf16")

    def prepared(format: str) -> Any:
        outline = outline_of(open_model(f"random:{format}:{shape}"), 64)
        return BACKEND.prepare(outline, settings, "bf16", lambda *_: None)

    assert "stacks of experts are not" in prepared("bf16").notes[0]
    (arch,) = ({**CONFIG, "model_type": "llama"},)
    Path(shape).write_text(json.dumps(arch))
    with pytest.raises(UsageError, match="all matrices of this model are packed already"):
        prepared("q4_k")


def test_what_is_kept_beside_packed_matrices(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as 60 % of the free memory has room for, and the note says it."""
    outline = outline_of(open_model(f"random:q8_0:{shape}"), 64)
    settings = Settings(backend="cuda", dtype="bf16")

    def held(**kept: bool) -> int:
        plan = CudaPlanOps("bf16", **kept)
        outline.build(cast(Ops, plan))
        return sum(plan.held_bytes.values())

    everything, integers = held(), held(resident=False)
    assert held(resident=False, integers=False) < integers < everything
    for free, kept, note in (
        (everything / 0.6 + 2, (True, True), "as floats for more"),
        (everything / 0.6 - 2, (False, True), "for more, floats are made each time"),
        (integers / 0.6 - 2, (False, False), "for steps of more than 4 rows, floats are made"),
    ):
        monkeypatch.setattr(type(BACKEND), "free_bytes", lambda *_, free=free: int(free))
        plan: Any = BACKEND.prepare(outline, settings, "bf16", lambda *_: None)
        assert (plan.resident, plan.integers) == kept
        assert note in plan.notes[-1]


@pytest.mark.parametrize(("format", "bits"), [("bf16", 16), ("q8_0", 8.5), ("q4_0", 4.5)])
def test_what_a_token_reads(shape: str, format: str, bits: float) -> None:
    """Two of three experts, which are floats, one row of the embedding, all other matrices."""
    ops = TrafficOps("bf16", planes=True, f8=False)
    found = bytes_read(ops, outline_of(open_model(f"random:{format}:{shape}"), 64).build(ops))
    attention = 256 * 256 + 2 * 128 * 256 + 256 * 256
    experts = 2 * 3 * 128 * 256
    router = 3 * 256
    read = (attention + 64 * 256 + 256) * bits / 8 + experts * 2
    assert abs(found - read) <= 2 * router + 64 * 256
    exact = TrafficOps("bf16", planes=False, f8=False)
    floats = bytes_read(exact, outline_of(open_model(f"random:{format}:{shape}"), 64).build(exact))
    assert floats == 2 * (attention + router + 64 * 256 + 256 + experts)


def test_what_a_token_of_rwkv_reads(shape: str) -> None:
    """A model whose graph depends on the length of a vector."""
    Path(shape).write_text(json.dumps(config_of("rwkv7", 3_000_000)))
    ops = TrafficOps("bf16", planes=True, f8=False)
    ckpt = open_model(f"random:bf16:{shape}")
    found = bytes_read(ops, outline_of(ckpt, 64).build(ops))
    whole = sum(ckpt.source.info(name).nbytes for name in ckpt.source.names())
    assert 0.4 * whole < found < whole  # the embedding is as large as everything else
