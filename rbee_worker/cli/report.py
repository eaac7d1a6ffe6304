"""What can be said of a checkpoint without loading it: the object that `inspect --json` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rbee_worker.checkpoint import Checkpoint, open_checkpoint
from rbee_worker.config import Settings
from rbee_worker.models import ARCHITECTURES, plan_model
from rbee_worker.models.base import Decoder
from rbee_worker.ops import Ops
from rbee_worker.ops.plan import DTYPE_BYTES, PlanOps
from rbee_worker.ops.select import check_backend, compute_dtype, kv_dtype
from rbee_worker.state.specs import Fixed, StateGroup
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.eos import eos_set, template_special_ids
from rbee_worker.tokenizer.load import load_tokenizer


def report(settings: Settings, progress: Any = None) -> dict[str, Any]:
    """Opens `settings.model`, checks every name and shape, counts every byte; reads no weights.

    Sizes in bytes. Raises what would keep the model from loading.
    """
    check_backend(settings)
    ckpt = open_checkpoint(settings.model, cache_dir=settings.cache_dir, progress=progress)
    in_file = file_formats(ckpt)
    dtype = compute_dtype(settings, ckpt.kind, {k: v["bytes"] for k, v in in_file.items()})
    model, plan = plan_model(ckpt, dtype)
    tokenizer = load_tokenizer(ckpt)
    kv = kv_dtype(settings, dtype, ckpt.kind == "gguf")
    context = min(settings.ctx or model.context, model.context)
    return {
        "ref": ckpt.ref,
        "path": str(ckpt.path),
        "kind": ckpt.kind,
        "architecture": ckpt.arch,
        "family": ARCHITECTURES[ckpt.arch].title,
        "parameters": model.n_parameters,
        "layers": len(model.blocks),
        "vocabulary": model.vocab_size,
        "context": model.context,
        "dtype": dtype,
        "kv_dtype": kv,
        "formats": in_file,
        "held": held_formats(plan),
        "memory": memory_plan(model, plan, kv, context),
        "eos": [
            {"id": e.id, "text": e.text, "origins": list(e.origins)}
            for e in eos_set(ckpt, tokenizer)
        ],
        "tokenizer": _tokenizer(ckpt, tokenizer),
        "chat_template": _template(tokenizer),
        "kernels": {"backend": "reference", "fast": [], "reference": sorted(op_names())},
        "skipped": dict(model.skipped),
        "notes": [*ckpt.notes, *model.notes],
    }


def file_formats(ckpt: Checkpoint) -> dict[str, dict[str, int]]:
    """format -> {"tensors", "bytes"} of the file, largest first."""
    found: dict[str, dict[str, int]] = {}
    for name in ckpt.source.names():
        info = ckpt.source.info(name)
        row = found.setdefault(info.format, {"tensors": 0, "bytes": 0})
        row["tensors"] += 1
        row["bytes"] += info.nbytes
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def held_formats(plan: PlanOps) -> dict[str, dict[str, int]]:
    """format held in memory -> {"bytes"}, largest first."""
    ordered = sorted(plan.held_bytes.items(), key=lambda item: -item[1])
    return {name: {"bytes": nbytes} for name, nbytes in ordered}


def memory_plan(model: Decoder, plan: PlanOps, kv: str, context: int) -> dict[str, int]:
    """Bytes: weights as held, cache for one token and for one sequence of `context` tokens."""
    element = DTYPE_BYTES[kv]
    per_token = sum(g.layers * g.spec.bytes_per_token(element) for g in _paged(model.groups))
    return {
        "weights": sum(plan.held_bytes.values()),
        "weights_in_file": sum(plan.file_bytes.values()),
        "kv_per_token": per_token,
        "kv_context": sequence_bytes(model.groups, element, context),
        "context": context,
    }


def sequence_bytes(groups: Iterable[StateGroup], element: int, tokens: int) -> int:
    """Bytes that one sequence of `tokens` tokens keeps; a windowed layer keeps its window."""
    total = 0
    for group in groups:
        spec = group.spec
        if isinstance(spec, Fixed):
            continue
        kept = tokens if spec.window is None else min(tokens, spec.window)
        total += group.layers * spec.bytes_per_token(element) * kept
    return total


def op_names() -> Iterable[str]:
    """The vocabulary of tensor operations."""
    return Ops.__abstractmethods__


def _paged(groups: Iterable[StateGroup]) -> list[Any]:
    return [g for g in groups if not isinstance(g.spec, Fixed)]


def _tokenizer(ckpt: Checkpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "tokens": tokenizer.vocab_size,
        "special": len(tokenizer.special_ids),
        "bos_id": tokenizer.bos_id,
        "warnings": list(tokenizer.warnings),
    }


def _template(tokenizer: Tokenizer) -> dict[str, Any] | None:
    if tokenizer.chat_template is None:
        return None
    used = sorted(template_special_ids(tokenizer.chat_template, tokenizer))
    return {"special_tokens": [{"id": i, "text": tokenizer.token_text(i)} for i in used]}


def lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report for people: rows of (label, text)."""
    from rbee_worker.cli.terminal import size

    memory, kernels = found["memory"], found["kernels"]
    template = found["chat_template"]
    rows = [
        ("model", found["ref"]),
        ("file", f"{found['path']} ({found['kind']})"),
        ("architecture", f"{found['architecture']} ({found['family']})"),
        ("parameters", f"{found['parameters']:,} in {found['layers']} layers"),
        ("context", f"{found['context']:,} tokens"),
        ("compute", f"{found['dtype']}, cache {found['kv_dtype']}"),
    ]
    rows += [
        ("in the file" if n == 0 else "", f"{name}: {row['tensors']} tensors, {size(row['bytes'])}")
        for n, (name, row) in enumerate(found["formats"].items())
    ]
    rows += [
        ("held as" if n == 0 else "", f"{name}: {size(row['bytes'])}")
        for n, (name, row) in enumerate(found["held"].items())
    ]
    rows += [
        (
            "memory",
            f"weights {size(memory['weights'])} ({size(memory['weights_in_file'])} on disk)",
        ),
        (
            "",
            f"cache {size(memory['kv_per_token'])} a token, "
            f"{size(memory['kv_context'])} for {memory['context']:,} tokens",
        ),
    ]
    rows += [
        ("ends at" if n == 0 else "", f"{e['id']} {e['text']} (from {', '.join(e['origins'])})")
        for n, e in enumerate(found["eos"])
    ]
    special = [t["text"] for t in template["special_tokens"]] if template else []
    rows += [
        (
            "chat template",
            f"yes, with {' '.join(special) or 'no special tokens'}" if template else "no",
        ),
        (
            "tokenizer",
            f"{found['tokenizer']['tokens']:,} tokens, {found['tokenizer']['special']} special",
        ),
        (
            "kernels",
            f"{kernels['backend']}: {len(kernels['fast'])} of "
            f"{len(kernels['fast']) + len(kernels['reference'])} operations are fast here",
        ),
    ]
    rows += [("not read", f"{name}: {why}") for name, why in found["skipped"].items()]
    rows += [("warning", w) for w in (*found["tokenizer"]["warnings"], *found["notes"])]
    return rows
