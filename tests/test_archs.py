"""Every check of design.md, driven by the rows of tests/archs."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.hf_config import canonical
from rbee_worker.checkpoint.names import DIALECTS
from rbee_worker.checkpoint.renamed import renamed_config
from rbee_worker.errors import UnsupportedModel
from rbee_worker.models import ARCHITECTURES, build_model
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import read_config
from rbee_worker.ops import Ops
from rbee_worker.ops.reference.dequant import dequantize
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.ops.reference.stepwise import ReferenceStepwise
from rbee_worker.verify.compare import compare
from rbee_worker.verify.compare import relative_error as error
from rbee_worker.verify.hf_trace import hf_trace
from tests.archs import (
    ARCHS,
    Arch,
    cache_name,
    oracle,
    write_checkpoint,
    write_gguf,
    write_safetensors,
)
from tests.driver import Driver
from tests.outlines import planned_model
from tests.prompts import random_prompt as prompt

TOWER = ("vision_tower.", "multi_modal_projector.")  # of weights that HF's text model lacks

WITH_GGUF = [a for a in ARCHS if a.gguf_arch is not None]
TOLERANCE = 1e-4  # norm of the difference over norm, float32 against float32
AMPLIFIED = 30  # how much larger a tiny model may make an error


def rows(archs: list[Arch] | tuple[Arch, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("arch", archs, ids=[a.id for a in archs])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archs")


def load(path: Path, ops: Ops | None = None) -> Decoder:
    return build_model(open_checkpoint(str(path)), ops or ReferenceOps("cpu", "f32"))


@lru_cache(maxsize=4)
def ours(arch: Arch, folder: Path) -> Decoder:
    return load(write_checkpoint(arch, folder / arch.id))


@rows(ARCHS)
def test_a_tiny_model_has_the_whole_pattern_of_layers(arch: Arch) -> None:
    """What differs from layer to layer comes round once in a row's layers: the first that differ
    from the rest, and a whole period of that."""
    lists = ("layer_types", "no_rope_layers", "moe_layers", "per_layer_config")
    given = {k: v for k, v in as_read(arch).items() if k not in lists}
    config, _ = read_config(
        ARCHITECTURES[arch.config().model_type].config, given | {"num_hidden_layers": 48}, where=""
    )
    kinds = list(zip(config.kinds[:-1], config.rotates, strict=False))  # the last may be special
    longest = min(
        first + period
        for first in range(len(kinds))
        for period in range(1, len(kinds) - first)
        if kinds[first:-period] == kinds[first + period :]
    )
    assert arch.config().num_hidden_layers >= longest


@rows(ARCHS)
def test_a_tiny_model_is_well_conditioned(arch: Arch) -> None:
    """What differs by rounding alone stays small, whoever computes it: in transformers, a change of
    the embeddings is not a much larger change of the logits. The least of three, of most positions:
    a change may turn a router to another expert, which is no rounding."""
    model, tokens = oracle(arch), torch.tensor([prompt(arch.prompt)])
    size, drawn = 1e-5, torch.Generator().manual_seed(1)

    def changed(module: Any, given: Any, x: Tensor) -> Tensor:
        return x + size * x.square().mean().sqrt() * torch.randn(x.shape, generator=drawn)

    def logits() -> Tensor:
        with torch.inference_mode():
            found: Tensor = model(tokens).logits[0]
        return found

    before, changes = logits(), []
    hook = model.get_input_embeddings().register_forward_hook(changed)
    for _ in range(3):
        change = (logits() - before).norm(dim=-1) / before.norm(dim=-1)
        changes.append(torch.median(change).item() / size)
    hook.remove()
    assert min(changes) < AMPLIFIED, (
        f"{arch.id}: its layers make an error {min(changes):.0f} times as large, so that rounding "
        "looks like a fault: what a layer adds must not outweigh what it is given (factors, norms)"
    )


def layers_that_differ(arch: Arch, model: Decoder) -> str:
    """Where a wrong number comes from: each layer alone, given transformers' states."""
    tokens = prompt(arch.prompt)
    return f"{arch.id}: {compare(ReferenceStepwise(model), hf_trace(oracle(arch), tokens), tokens)}"


def tensors_that_differ(one: Path, other: Path) -> str:
    """Which tensors of two files are not the same, by their name today."""
    a, b = (open_checkpoint(str(path)).source for path in (one, other))
    common = set(a.names()) & set(b.names())
    wrong = [n for n in sorted(common) if not torch.equal(*(dequantize(s.read(n)) for s in (a, b)))]
    alone = sorted(set(a.names()) ^ set(b.names()))
    return f"tensors that differ: {wrong[:8]}; in one of the files only: {alone[:8]}"


def as_read(arch: Arch) -> dict[str, Any]:
    """The row's config.json in the names of today."""
    written, model_type = arch.config().to_dict(), arch.config().model_type
    dialect = DIALECTS.get(model_type)
    return canonical(renamed_config(dialect, written, "") if dialect else written, "")


@rows(ARCHS)
def test_logits_equal_transformers(arch: Arch, folder: Path) -> None:
    """At every position of the prompt, then for 20 decoded tokens; every key of it was read."""
    model, hf = ours(arch, folder), oracle(arch)
    assert model.notes == ()
    driver, tokens = Driver(model), prompt(arch.prompt)
    seq = driver.start(tokens)
    (got,) = driver.feed([(seq, len(tokens))])
    kept = cache_name(hf)
    with torch.inference_mode():
        step = hf(torch.tensor([tokens]), use_cache=True)
        want = step.logits[0]
        assert got.shape == want.shape
        assert error(got, want) < TOLERANCE, layers_that_differ(arch, model)
        assert max(error(g, w) for g, w in zip(got, want, strict=True)) < TOLERANCE
        for _ in range(arch.decoded):
            token = int(want[-1].argmax())
            assert token == int(got[-1].argmax())
            seq.tokens.append(token)
            (got,) = driver.feed([(seq, 1)], rope_len=arch.prompt)
            step = hf(torch.tensor([[token]]), **{kept: step[kept]})
            want = step.logits[0]
            assert error(got, want) < TOLERANCE


def in_chunks(model: Decoder, arch: Arch, ways: list[list[int]]) -> None:
    driver, tokens = Driver(model), prompt(arch.prompt)
    (whole,) = driver.feed([(driver.start(tokens), len(tokens))])
    for chunks in ways:
        seq = driver.start(tokens)
        parts = [driver.feed([(seq, n)])[0] for n in chunks]
        assert torch.equal(torch.cat(parts), whole), chunks


@rows(ARCHS)
def test_chunked_prefill_is_bitwise_whole(arch: Arch, folder: Path) -> None:
    """Tokens one by one begin and end a prompt, and cross a block's end each time."""
    n, ones = arch.prompt, [1] * 18
    ways = [[*ones, n - 36, *ones], [17, 1, 16, n - 34], [3, n - 3]]
    in_chunks(ours(arch, folder), arch, ways)


@pytest.mark.long
@rows(ARCHS)
def test_a_prompt_one_by_one_is_bitwise_whole(arch: Arch, folder: Path) -> None:
    in_chunks(ours(arch, folder), arch, [[1] * arch.prompt])


@rows(ARCHS)
def test_mixed_batch_is_bitwise_alone(arch: Arch, folder: Path) -> None:
    """Prefill chunks and decodes of five sequences share steps at random."""
    model, rng = ours(arch, folder), random.Random(3)
    driver = Driver(model)
    prompts = [prompt(n, seed=n) for n in (70, 33, 16, 5, 41)]
    alone = [driver.feed([(driver.start(p), len(p))])[0] for p in prompts]
    seqs = [driver.start(p) for p in prompts]
    got: list[list[Tensor]] = [[] for _ in prompts]
    while any(s.computed < len(s.tokens) for s in seqs):
        picked = [i for i, s in enumerate(seqs) if s.computed < len(s.tokens)]
        picked = rng.sample(picked, rng.randint(1, len(picked)))
        counts = [rng.choice([1, 1, 7, 20]) for _ in picked]
        counts = [
            min(n, len(seqs[i].tokens) - seqs[i].computed)
            for i, n in zip(picked, counts, strict=True)
        ]
        results = driver.feed([(seqs[i], n) for i, n in zip(picked, counts, strict=True)])
        for i, logits in zip(picked, results, strict=True):
            got[i].append(logits)
    for parts, want in zip(got, alone, strict=True):
        assert torch.equal(torch.cat(parts), want)


@rows(WITH_GGUF)
def test_gguf_f32_equals_safetensors(arch: Arch, folder: Path) -> None:
    """The same numbers under llama.cpp's names and row order: bitwise, where a row is `exact`."""
    path = write_gguf(arch, oracle(arch), folder / f"{arch.id}.gguf")
    tokens = prompt(40)
    results = []
    for model in (load(path), ours(arch, folder)):
        driver = Driver(model)
        results.append(driver.feed([(driver.start(tokens), len(tokens))])[0])
    if arch.exact:
        assert torch.equal(*results), tensors_that_differ(path, folder / arch.id)
    assert error(*results) < 1e-6, tensors_that_differ(path, folder / arch.id)


@rows(WITH_GGUF)
def test_gguf_packed_equals_its_dequantized_weights(arch: Arch, folder: Path) -> None:
    """Q8_0 blocks against safetensors that hold the values the `gguf` package decodes."""
    quant = gguf.GGMLQuantizationType.Q8_0
    hf = oracle(arch)
    path = write_gguf(arch, hf, folder / f"{arch.id}-q8.gguf", quant)
    plain = write_safetensors(hf, folder / f"{arch.id}-q8")
    weights = load_file(plain / "model.safetensors")
    packed = arch.packed or (lambda name, value, blocks: blocks(value))

    def there_and_back(value: np.ndarray) -> np.ndarray:
        return gguf.quants.dequantize(gguf.quants.quantize(value, quant), quant)

    for name, value in weights.items():
        if value.ndim > 1 and len(value) > 1 and not re.search("norm|bias$", name):
            left = packed(name, value.numpy(), there_and_back)
            weights[name] = torch.from_numpy(left)
    save_file(weights, plain / "model.safetensors", metadata={"format": "pt"})
    tokens = prompt(40)
    results = []
    for model in (load(path), load(plain)):
        driver = Driver(model)
        results.append(driver.feed([(driver.start(tokens), len(tokens))])[0])
    assert error(*results) < 1e-6


def made_vectors(part: Any) -> Iterator[Tensor]:
    """The vectors that are computed, not read, in a layer or a part of it; layers share them."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name in ("slopes", "factors") and value is not None:
            yield value
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from made_vectors(value)


@rows(ARCHS)
def test_the_plan_counts_what_the_model_has(arch: Arch, folder: Path) -> None:
    """A plan reads no data and knows parameters, bytes and state groups of the real thing."""
    model = ours(arch, folder)
    ckpt = open_checkpoint(str(folder / arch.id))
    planned, plan = planned_model(ckpt, "f32")
    assert planned.groups == model.groups
    assert planned.n_parameters == model.n_parameters
    shapes = {name: ckpt.source.info(name).shape for name in ckpt.source.names()}
    sees = model.tower is not None
    tower = sum(math.prod(s) for n, s in shapes.items() if sees and n.startswith(TOWER))
    hf = oracle(arch)
    kept = [b for name, b in hf.named_buffers() if name in hf.state_dict()]
    assert planned.n_parameters == tower + sum(p.numel() for p in (*hf.parameters(), *kept))
    tensors = {id(t): t for b in model.blocks for t in made_vectors(b)}
    computed = sum(t.numel() for t in tensors.values())
    computed -= sum(hasattr(b, "factor") for b in model.blocks)  # read, and held as a Python number
    assert sum(plan.held_bytes.values()) == 4 * (model.n_parameters + computed)


@rows(ARCHS[:1])
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_stays_near(arch: Arch, folder: Path, dtype: str) -> None:
    """bf16 and f16 compute: near float32, and bitwise the same in chunks."""
    path = write_safetensors(oracle(arch), folder / arch.id)
    model, tokens = load(path, ReferenceOps("cpu", dtype)), prompt(70)
    driver = Driver(model)
    (whole,) = driver.feed([(driver.start(tokens), 70)])
    full = Driver(ours(arch, folder))
    (want,) = full.feed([(full.start(tokens), 70)])
    assert 1e-6 < error(whole, want) < {"bf16": 0.05, "f16": 0.01}[dtype]
    seq = driver.start(tokens)
    parts = [driver.feed([(seq, n)])[0] for n in (1, 30, 1, 38)]
    assert torch.equal(torch.cat(parts), whole)


def test_experts_of_different_formats_are_refused(folder: Path) -> None:
    """Files with a tensor an expert may have them; a stack cannot."""
    arch = next(a for a in ARCHS if a.id == "mixtral-2023")
    quant = gguf.GGMLQuantizationType.Q8_0
    path = write_gguf(arch, oracle(arch), folder / "mixed.gguf", quant, only="ffn_up.1.weight")
    with pytest.raises(UnsupportedModel, match="the experts' w1 and w3 have different formats"):
        load(path)


def test_dynamic_scaling_says_what_it_does_not_do(folder: Path) -> None:
    """A sequence that crosses the length while decoding keeps its frequencies: never silently."""
    dynamic, long = (next(a for a in ARCHS if a.id == i) for i in ("llama-dynamic", "phi3-long"))
    model = ours(dynamic, folder)
    assert model.limits == ()  # it is made for no longer sequence
    (said,) = dataclasses.replace(model, context=80).limits
    assert f"past {dynamic.config().max_position_embeddings} tokens" in said
    assert ours(long, folder).limits == ours(ARCHS[0], folder).limits == ()
