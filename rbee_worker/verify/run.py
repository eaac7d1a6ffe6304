"""`verify`, from settings to a report: open, check memory, compute with both, compare."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import torch

from rbee_worker.checkpoint import Checkpoint, open_checkpoint
from rbee_worker.checkpoint.summary import summarize
from rbee_worker.config import Settings
from rbee_worker.errors import ModelError, UsageError
from rbee_worker.loading.preflight import outline_of, preflight
from rbee_worker.machine import allowed_cores, available_memory
from rbee_worker.models import build_model
from rbee_worker.models.base import Decoder
from rbee_worker.models.encoder import Encoder
from rbee_worker.ops.backends import choose_backend
from rbee_worker.state.specs import COLOURS
from rbee_worker.verify.compare import TOLERANCE, Comparison, Step, compare, relative_error
from rbee_worker.verify.hf_trace import hf_trace
from rbee_worker.verify.oracle import load_oracle
from rbee_worker.verify.towers import tower_features
from rbee_worker.verify.whole import BLOCK_SIZE, KV, Pieces

Say = Callable[[str], None]


def verify_report(
    settings: Settings,
    *,
    against: str | None = None,
    tokens: int = 70,
    tolerance: float | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Compare `settings.model` with transformers on `tokens` random ids, of which a model with an
    encoder reads the first half, and on a random picture if it reads pictures.

    It is computed by `settings.backend` (auto: reference, which should equal transformers) in
    `settings.dtype` (auto: float32), with a float32 cache. against: another checkpoint, from which
    transformers takes its weights. Raises UsageError and subclasses of ModelError.
    """
    if settings.backend == "auto":
        settings = msgspec.structs.replace(settings, backend="reference")
    backend = choose_backend(settings)
    dtype = "f32" if settings.dtype == "auto" else settings.dtype
    say("Opening the model.")
    ckpt = _opened(settings.model, settings, settings.mmproj)
    formats = {use.format for use in summarize(ckpt.source).formats}
    activations = backend.activations(settings, dtype, formats)
    allowed = TOLERANCE[activations] if tolerance is None else tolerance
    other = ckpt if against is None else _opened(against, settings, "")
    source, ids = _ids(ckpt, settings, tokens)
    torch.set_num_threads(settings.threads or allowed_cores())
    say("Computing with transformers.")
    oracle = load_oracle(other)
    want = hf_trace(oracle.model, ids, source)
    title, by = oracle.title, oracle.by
    del oracle
    say("Computing layer by layer.")
    model = _built(ckpt, settings, dtype, say)
    if isinstance(model, Encoder):  # its rows are compared, which a head would pool first
        model = replace(model, scores=None, labels=())
    if len(model.blocks) + 1 != len(want.states) or model.outputs != want.logits.shape[1]:
        raise ModelError(
            f"{against}: its sizes differ from those of {settings.model}.",
            fix="give --against the checkpoint that this one was converted from.",
        )
    longest = max(len(ids), len(source))
    pieces = backend.pieces(model, tokens=longest, block_size=BLOCK_SIZE, kv_dtype=KV)
    seen = _seen(model, pieces, other)
    found = compare(pieces, want, ids, source=source, tolerance=allowed, before=seen)
    return {
        "ref": ckpt.ref,
        "path": str(ckpt.path),
        "architecture": ckpt.arch,
        "against": {"ref": other.ref, "model": title, "weights": by},
        "backend": backend.name,
        "dtype": dtype,
        "activations": activations,
        "tokens": tokens,
        "compared": "rows"
        if isinstance(model, Encoder)
        else "scores"
        if model.labels
        else "logits",
        **as_dict(found),
    }


def _built(ckpt: Checkpoint, settings: Settings, dtype: str, say: Say) -> Decoder:
    """The model on the chosen backend."""

    def compiling(done: int, total: int, name: str) -> None:
        say(f"Compiling CPU kernels: {done} of {total}, {name}.")

    plan = preflight(ckpt, settings)
    outline = outline_of(ckpt, plan.model.context)
    prepared = plan.backend.prepare(outline, settings, KV, compiling)
    for note in prepared.notes:
        say(note)
    ops = plan.backend.ops(
        settings, dtype, weight_bytes=plan.weight_bytes, progress=compiling, prepared=prepared
    )
    return build_model(ckpt, ops)


def as_dict(found: Comparison) -> dict[str, Any]:
    """A comparison in the form of `verify --json`."""
    return {
        "ok": found.ok,
        "tolerance": found.tolerance,
        "steps": [_step(s) for s in found.steps],
        "first_differing": found.first.name if found.first else None,
        "worst": found.worst.name,
        "logits": {
            "error": found.logits.error,
            "max": found.logits_max,
            "mean": found.logits_mean,
            "same_token": found.agree,
        },
    }


def _step(step: Step) -> dict[str, Any]:
    return {"name": step.name, "error": step.error, "alone": step.alone}


def _ids(ckpt: Checkpoint, settings: Settings, count: int) -> tuple[list[int], list[int]]:
    """Random ids, the same every time: of a source, for a model that reads one first, and of what
    follows. Checks first that both models fit in memory."""
    ahead = preflight(ckpt, settings)
    if not 2 <= count <= ahead.model.context:
        raise UsageError(
            f"--tokens {count} is not between 2 and the model's context.",
            fix=f"use 2..{ahead.model.context}.",
        )
    need, free = 2 * 4 * ahead.model.n_parameters, available_memory()
    if need > free:
        raise ModelError(
            f"comparing needs two models in float32, {need:,} bytes, but {free:,} are free.",
            fix="verify a smaller model of the family, or on a larger machine.",
        )
    ids = random.Random(0).choices(range(ahead.model.vocab_size), k=count)
    if ahead.model.start is None:
        return [], ids
    return ids[: count // 2], [ahead.model.start, *ids[count // 2 + 1 :]]


def _seen(model: Decoder, pieces: Pieces, other: Checkpoint) -> tuple[Step, ...]:
    """The comparison of a random picture's features, if the model reads pictures. other: the
    checkpoint whose weights transformers has."""
    if model.tower is None:
        return ()
    side = model.tower.side
    rough = np.random.default_rng(0).integers(0, 256, (4, 4, COLOURS), np.uint8)
    tile = rough.repeat(-(-side // 4), 0).repeat(-(-side // 4), 1)[:side, :side]
    error = relative_error(pieces.see(tile), tower_features(other, tile))
    return (Step("picture", error, error),)


def _opened(ref: str, settings: Settings, mmproj: str) -> Checkpoint:
    return open_checkpoint(ref, cache_dir=settings.cache_dir, mmproj=mmproj)
