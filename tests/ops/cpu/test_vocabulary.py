"""A model that uses everything families need, recorded whole: latent attention, biases, sinks,
chunks, experts of several formats, learned positions. Equal to the reference without falling back,
and the same bits in any schedule on any number of threads."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.mlp import GatedMLP
from rbee_worker.layers.moe import Experts, MoE
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.models.base import Decoder
from rbee_worker.ops import Ops, RopeSpec, Routing
from rbee_worker.ops.backends import backend
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.backend.outline import OutlineOps
from rbee_worker.ops.cpu.backend.sampling import KERNELS as SAMPLING
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.reference.model import ReferenceModel
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.state.specs import PagedKV, StateBook, StateRef
from tests.driver import Driver

VOCAB, DIM, HEADS, NOPE, ROPE, LATENT, VALUE = 96, 64, 4, 32, 16, 64, 32
COUNT, WIDTH = 8, 40


class Random:
    """Packed tensors of random numbers, the same for the same calls."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def __call__(self, *shape: int, scale: float = 0.15, kind: str = "F32") -> Packed:
        x = (self._rng.standard_normal(shape) * scale).astype(np.float32)
        if kind == "Q8_0":
            blocks = x.reshape(-1, 32)
            d = (np.abs(blocks).max(1, keepdims=True) / 127).astype(np.float16)
            q = np.rint(blocks / d.astype(np.float32)).astype(np.int8)
            data = np.concatenate([d.view(np.uint8), q.view(np.uint8)], 1)
            return Packed(data.reshape(shape[0], -1), kind, shape)
        return Packed(x.view(np.uint8).reshape(int(np.prod(shape[:-1])), -1), kind, shape)

    def linear(self, ops: Ops, n_in: int, *n_out: int) -> Linear:
        return Linear(ops, ops.matrix([self(n, n_in) for n in n_out]), None, n_out)


@dataclass(frozen=True)
class Latent:
    """Absorbed latent attention (DeepSeek V2): queries go into the latent space head by head."""

    ops: Ops
    q: Linear
    down: Linear  # to latent and rotary columns
    norm: RMSNorm
    into: object
    out_of: object
    out: Linear
    rope: RopeSpec
    where: StateRef

    def __call__(self, x, batch):
        ops = self.ops
        plain, turned = ops.split(self.q(x, batch), (NOPE, ROPE), heads=HEADS)
        turned = ops.rope(turned, self.rope, batch, heads=HEADS)
        query = ops.concat((ops.heads_linear(plain, self.into), turned), heads=HEADS)
        latent, k_rope = self.down.split(x, batch)
        latent = self.norm(latent)
        key = ops.concat((latent, ops.rope(k_rope, self.rope, batch, heads=1)))
        mixed = ops.attend(query, key, latent, self.where, batch, heads=HEADS, scale=0.15)
        return self.out(ops.heads_linear(mixed, self.out_of), batch)


@dataclass(frozen=True)
class Plain:
    """Attention with whatever is asked for; queries are scaled by position."""

    ops: Ops
    qkv: Linear
    out: Linear
    where: StateRef
    factors: torch.Tensor
    how: dict

    def __call__(self, x, batch):
        q, k, v = self.qkv.split(x, batch)
        q = self.ops.scale_by_position(self.ops.clip(q, 2.0), self.factors, batch, every=16)
        mixed = self.ops.attend(q, k, v, self.where, batch, heads=HEADS, scale=0.2, **self.how)
        again = self.ops.attend(
            q, None, None, self.where, batch, heads=HEADS, scale=0.1, **self.how
        )
        return self.out(self.ops.add(mixed, again), batch)


@dataclass(frozen=True)
class Block:
    ops: Ops
    norm: RMSNorm
    attention: object
    mixture: MoE
    column: torch.Tensor

    def __call__(self, x, batch):
        x = self.ops.add(x, self.attention(self.norm(x), batch))
        return self.ops.add(x, self.ops.scale(self.mixture(self.norm(x), batch), self.column))


@dataclass(frozen=True)
class Learned:
    """Learned positions, in place of a block."""

    ops: Ops
    table: object

    def __call__(self, x, batch):
        return self.ops.add_positions(x, self.table, batch, offset=2)


def mixtures(ops: Ops, new: Random) -> list[MoE]:
    def experts(kind: str, act: str, **how) -> Experts:
        up = ops.stack(
            [[new(WIDTH, DIM, kind=kind), new(WIDTH, DIM, kind=kind)] for _ in range(COUNT)]
        )
        down = ops.stack([[new(DIM, WIDTH)] for _ in range(COUNT)])
        return Experts(ops, up, down, act, **how)

    shared = GatedMLP(ops, new.linear(ops, DIM, WIDTH, WIDTH), new.linear(ops, WIDTH, DIM), "silu")
    grouped = Routing(3, "sigmoid", True, 2.5, 4, 2, "best two")
    biases = {
        "up_bias": ops.vector([new(COUNT, 2 * WIDTH)]),
        "down_bias": ops.vector([new(COUNT, DIM)]),
        "limit": 0.5,
    }
    router = lambda: new.linear(ops, DIM, COUNT)  # noqa: E731
    return [
        MoE(
            ops, router(), grouped, experts("F32", "silu"),
            choice_bias=ops.vector([new(COUNT)]), shared=shared,
            shared_gate=new.linear(ops, DIM, 1),
        ),
        MoE(ops, router(), Routing(4, normalise=True), experts("Q8_0", "gelu_quick", **biases)),
        MoE(ops, router(), Routing(1, "sigmoid"), experts("F32", "silu"), weigh="inputs"),
        MoE(ops, router(), Routing(2, "sparsemixer", jitter=0.2), experts("Q8_0", "silu")),
    ]  # fmt: skip


def build(ops: Ops) -> Decoder:
    new, book = Random(), StateBook()
    rope = RopeSpec(ROPE, tuple(10000.0 ** (-2 * i / ROPE) for i in range(ROPE // 2)), True)
    ones = Packed(np.ones(DIM, np.float32).view(np.uint8)[None], "F32", (DIM,))
    norm = RMSNorm(ops, ops.vector([ones]), 1e-5)
    factors = ops.vector([new(9, scale=0.5)])

    def plain(kept: int | None, **how) -> Plain:
        return Plain(
            ops, new.linear(ops, DIM, HEADS * 16, 32, 32), new.linear(ops, HEADS * 16, DIM),
            book.add(PagedKV(2, 16, 16, kept)), factors, how,
        )  # fmt: skip

    latent = Latent(
        ops,
        new.linear(ops, DIM, HEADS * (NOPE + ROPE)),
        new.linear(ops, DIM, LATENT, ROPE),
        norm,
        ops.stack([[new(LATENT, NOPE)] for _ in range(HEADS)]),
        ops.stack([[new(VALUE, LATENT)] for _ in range(HEADS)]),
        new.linear(ops, HEADS * VALUE, DIM),
        rope,
        book.add(PagedKV(1, LATENT + ROPE, 0)),
    )
    attentions = [
        latent,
        plain(None, slopes=ops.vector([new(HEADS)])),
        plain(20, window=20, sinks=ops.vector([new(HEADS, scale=2.0)])),
        plain(24, chunk=24),
    ]
    column = ops.vector([new(DIM, scale=1.0)])
    blocks = [
        Block(ops, norm, a, m, column) for a, m in zip(attentions, mixtures(ops, new), strict=True)
    ]
    return Decoder(
        ops=ops,
        embed=ops.matrix([new(VOCAB, DIM, scale=1.0)]),
        blocks=[Learned(ops, ops.matrix([new(300, DIM, scale=1.0)])), *blocks],
        norm=norm,
        out=new.linear(ops, DIM, VOCAB),
        groups=book.groups,
        vocab_size=VOCAB,
        context=256,
        ropes=(rope,),
    )


@pytest.fixture(scope="module")
def library():
    return Library(isa.choose())


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def record(library, threads):
    team = Team(library, threads)
    ops = CpuOps(library, team, exact=True)
    return CpuModel(build(ops), ops, Shape(128, 8, 256, 16, "f32"))


def tokens(n, seed=0):
    return random.Random(seed).choices(range(VOCAB), k=n)


def whole(model, given):
    driver = Driver(model)
    return driver.feed([(driver.start(given), len(given))])[0]


def test_the_recorded_program_is_the_reference(library):
    model = record(library, 2)
    got, want = whole(model, tokens(100)), whole(build(ReferenceOps()), tokens(100))
    assert float((got - want).norm() / want.norm()) < 1e-5
    assert float((got - want).abs().max() / want.abs().max()) < 1e-4


def test_any_schedule_gives_the_same_bits(library):
    models = [record(library, n) for n in (1, 2, 3)]
    prompts = [tokens(n, seed=n) for n in (100, 33, 16, 5, 41, 64, 1)]
    alone = [whole(models[0], p) for p in prompts]
    rng = random.Random(5)
    for model in (*models, *models):
        driver = Driver(model)
        seqs = [driver.start(p) for p in prompts]
        got = [[] for _ in prompts]
        while any(s.computed < len(s.tokens) for s in seqs):
            left = [i for i, s in enumerate(seqs) if s.computed < len(s.tokens)]
            picked = rng.sample(left, rng.randint(1, len(left)))
            counts = [
                min(rng.choice([1, 1, 2, 7, 20]), len(prompts[i]) - seqs[i].computed)
                for i in picked
            ]
            out = driver.feed([(seqs[i], n) for i, n in zip(picked, counts, strict=True)])
            for i, logits in zip(picked, out, strict=True):
                got[i].append(logits)
        for parts, want in zip(got, alone, strict=True):
            assert torch.equal(torch.cat(parts), want)


def test_the_plan_counts_what_is_held(library):
    plan = backend("cpu").plan_ops("f32")
    planned = build(plan)
    held = record(library, 1).decoder
    for a, b in zip(planned.blocks[1:], held.blocks[1:], strict=True):
        assert isinstance(a, Block)
        assert isinstance(b, Block)
        for name in ("up", "down"):
            mine, theirs = getattr(a.mixture.experts, name), getattr(b.mixture.experts, name)
            assert (mine.nbytes, mine.held, mine.count) == (theirs.nbytes, theirs.held, COUNT)


def test_its_kernels_are_known_before_its_weights(library):
    model = record(library, 2)
    used = {*model._whole.program.names, *model._head.program.names}
    ops = OutlineOps(exact=True)
    needed = ops.needed(build(ops), Shape(128, 8, 256, 16, "f32"))
    others = {n for n in needed if n.startswith(("team.", "repack."))} | {*SAMPLING}
    assert set(needed) - others == used
    assert others <= set(needed)
    assert {"repack.f32", "repack.q8_0"} <= set(needed)


def test_an_empty_step(library):
    for model in (record(library, 2), ReferenceModel(build(ReferenceOps()))):
        driver = Driver(model)
        driver.feed([(driver.start(tokens(5)), 5)])
        assert model.hidden(driver.batch([])).shape == (0, DIM)
