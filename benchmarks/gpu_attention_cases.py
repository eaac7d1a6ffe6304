"""Errors of the attention kernels on the GPU, at the shapes of real models (`gpu_attention`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_graphs import guarded, say
from rbee_worker.ops.cuda.kernels.attention.attend import attend
from rbee_worker.ops.cuda.kernels.attention.shapes import Tiles
from rbee_worker.ops.cuda.kernels.attention.write import split_rope_write
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from tests.ops.cuda.attention.cases import BLOCK, BOUNDS, DEVICE, F64, Case, error
from tests.ops.cuda.attention.packed import Before
from tests.ops.cuda.attention.steps import Step

Found = tuple[str, torch.Tensor, Callable[[], F64], float]  # kind, result, expected, bound
BF16, F16, F32, F8 = torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn
LLAMA = (32, 8, 128, 128)
SHAPES = {
    "8B": LLAMA,
    "64": (9, 3, 64, 64),
    "80": (32, 32, 80, 80),
    "96": (32, 32, 96, 96),
    "112": (16, 4, 112, 112),
    "192/128": (16, 16, 192, 128),
    "256": (8, 4, 256, 256),
    "71 in a group": (71, 1, 64, 64),
}


def poisoned(call: Callable[[], Any]) -> Any:
    """Call with memory that holds NaN until it is written."""
    empty = torch.empty

    def made(*args: Any, **kwargs: Any) -> torch.Tensor:
        x = empty(*args, **kwargs)
        return x.fill_(float("nan")) if x.is_floating_point() else x

    torch.empty = made
    try:
        return call()
    finally:
        torch.empty = empty


def attended(case: Case, **more: Any) -> Iterator[Found]:
    """The error of `attend`, and its bound."""
    arguments = {**case.arguments(), "workspace": Workspace(DEVICE), **more}
    got = poisoned(lambda: attend(*case.tensors(), **arguments))
    yield "attend", got, case.expected, BOUNDS[case.dtype]


def stepped(case: Case, before: Before, **more: Any) -> Iterator[Found]:
    """The errors of `attend_decode`: result, key, value."""
    step = Step(case, before)
    got = poisoned(lambda: step.run(pdl=DEVICE == "cuda", **more))
    bound = BOUNDS[case.dtype] if case.cache_dtype is None else 0.08
    yield "decode", got, step.expected, bound
    block, inside = step.slots // BLOCK, step.slots % BLOCK
    yield "key", case.k[block, inside].float(), lambda: step.k, bound
    yield "value", case.v[block, inside].float(), lambda: step.v, bound


def split(dtype: torch.dtype) -> Iterator[Found]:
    """The errors of `split_rope_write` at 8B: queries, keys, values."""
    count, (heads, kv_heads, k_dim, v_dim) = 300, LLAMA
    before = Before(128, norms=True)
    before.draw(count, k_dim)
    width = (heads + 2 * kv_heads) * k_dim
    qkv = torch.randn(count, width, device=DEVICE).to(dtype)
    caches = [torch.zeros(20, kv_heads, BLOCK, 128, device=DEVICE).to(dtype) for _ in range(2)]
    k, v = (cache.transpose(1, 2) for cache in caches)
    slots = torch.randperm(20 * BLOCK, device=DEVICE)[:count]
    got = poisoned(
        lambda: split_rope_write(
            qkv, k, v, slots, before.angles, heads=heads, pdl=DEVICE == "cuda", **before.arguments()
        )
    )
    expected = before.parts(qkv, heads, kv_heads, k_dim, v_dim)
    bound = BOUNDS[dtype]
    yield "query", got, lambda: expected[0].reshape(count, -1), bound
    for name, cache, right in (("key", k, expected[1]), ("value", v, expected[2])):
        flat = cache.reshape(20 * BLOCK, kv_heads, 128)[slots]
        yield name, flat.float(), partial(np.asarray, right), bound


def cases() -> Iterator[tuple[str, Callable[[], Iterator[Found]]]]:
    """A name, and what computes errors and their bounds."""
    seed = int(np.random.default_rng().integers(1 << 30))
    slopes = torch.rand(32, device=DEVICE) / 8
    sinks = torch.randn(32, device=DEVICE)
    every = {"window": 130, "softcap": 20.0, "slopes": slopes, "sinks": sinks}
    decode, mixed = ([1, 1, 1], [1, 257, 700]), ([130, 1, 64], [300, 421, 64])
    few = ([20, 1], [300, 421])
    for dtype in (BF16, F16, F32):
        for name, shape in SHAPES.items():
            if dtype == BF16 or name in ("8B", "64"):
                case = partial(Case, dtype=dtype, seed=seed)
                text = f"{name} {str(dtype)[6:]}"
                yield f"{text} mixed", partial(lambda c, s: attended(c(*mixed, *s)), case, shape)
                yield (
                    f"{text} decode",
                    partial(lambda c, s: stepped(c(*decode, *s), Before(s[2] // 4 * 2, norms=True)),
                            case, shape),
                )  # fmt: skip
    bf16 = partial(Case, dtype=BF16, seed=seed)
    for rows, lens in (decode, mixed):
        many = partial(bf16, rows, lens)
        for options in (every, {"chunk": 128}, {"causal": False}, {"causal": False, "window": 65}):
            text = f"{' '.join(options)} {'decode' if rows == decode[0] else 'mixed'}"
            yield text, partial(lambda m, o: attended(m(*LLAMA, options=o)), many, options)
        for heads in (16, 128):
            some = decode if rows == decode[0] else few
            latent = partial(bf16, *some, heads, 1, 576, 512, latent=True)
            yield f"latent {heads}", partial(lambda c: attended(c()), latent)
        yield "f8 cache", partial(lambda m: attended(m(*LLAMA, cache_dtype=F8)), many)
    options = {key: value for key, value in every.items() if key != "causal"}
    yield "every option, step", lambda: stepped(bf16(*decode, *LLAMA, options=options), Before(128))
    yield "f8 step", lambda: stepped(bf16(*decode, *LLAMA, cache_dtype=F8), Before(128))
    for tiles in (
        Tiles(16, 32, 16, 1, 0, 2),
        Tiles(16, 64, 32, 1, 0, 4),
        Tiles(16, 32, 1, 2, 0, 2),
        Tiles(16, 64, 4, 2, 3, 4),
    ):
        yield (
            f"step {tuple(tiles)}",
            partial(lambda t: stepped(bf16(*decode, *LLAMA), Before(128), tiles=t), tiles),
        )
    for dtype in (BF16, F32):
        yield f"split {str(dtype)[6:]}", partial(split, dtype)


def errors(*, dry: bool = False) -> None:
    """Print every error over its bound, and the largest of each kind. dry: only launch."""
    worst: dict[str, tuple[float, str]] = {}
    wrong = count = failed = 0
    for name, call in cases():
        found = guarded(lambda call=call: list(call()), name)
        failed += found is None
        for kind, got, expected, bound in [] if dry else found or []:
            count += 1
            size = guarded(lambda got=got, expected=expected: error(got, expected()), name)
            size = float("nan") if size is None else size
            worst[kind] = max(worst.get(kind, (0.0, "")), (size / bound, f"{size:.1e} {name}"))
            if not size < bound:
                wrong += 1
                say(f"WRONG {name} {kind}: error {size:.2e}, bound {bound:.1e}")
    if not dry:
        say(f"{count - wrong} of {count} errors within bounds, {failed} cases failed; the worst:")
        for kind, (share, text) in worst.items():
            say(f"  {kind:8} {share:.2f} of its bound ({text})")
