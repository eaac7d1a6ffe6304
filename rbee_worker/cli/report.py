"""What a checkpoint shows without being loaded: the object that `inspect --json` prints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import msgspec

from rbee_worker.adapters import localized
from rbee_worker.checkpoint import Checkpoint, open_checkpoint
from rbee_worker.checkpoint.pair_rule import pair_rule
from rbee_worker.checkpoint.summary import summarize
from rbee_worker.checkpoint.tokenizer_files import BYTES, VOCABULARIES
from rbee_worker.config import Settings
from rbee_worker.engine.lookup import drafting_notes
from rbee_worker.errors import ModelError
from rbee_worker.loading.mtp import NO_MTP, MtpPlan, plan_mtp
from rbee_worker.loading.planned import Preflight
from rbee_worker.loading.preflight import WORKSPACE_BYTES, preflight
from rbee_worker.loading.purpose import dimensions_of, purpose_of
from rbee_worker.machine import available_memory
from rbee_worker.models import architecture
from rbee_worker.ops import OPERATIONS
from rbee_worker.ops.backend import Backend
from rbee_worker.ops.backends import backend_notes
from rbee_worker.params import generation_defaults
from rbee_worker.session.pair_texts import completed, pair_texts
from rbee_worker.session.vectors import longest
from rbee_worker.speech.opening import speech_of
from rbee_worker.state.kinds import state_kinds
from rbee_worker.tokenizer.chat import ChatRenderer
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.eos import eos_set, template_special_ids
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.tokenizer.rows import rows_note


def report(
    settings: Settings, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Open `settings.model`, check every name and shape, count every byte; read no weights.

    Sizes are in bytes. Raises whatever would keep the model from loading, except lack of memory.
    """
    settings = localized(settings, progress)
    ckpt = open_checkpoint(
        settings.model, cache_dir=settings.cache_dir, progress=progress, mmproj=settings.mmproj
    )
    ahead = preflight(ckpt, settings)
    tokenizer = load_tokenizer(ckpt)
    heads = int(ckpt.config.get("num_attention_heads") or 0)
    further = plan_mtp(ckpt, ahead, settings)
    purpose = _purpose(ckpt, ahead, settings, tokenizer)
    memory, trouble = memory_plan(ahead, settings, available_memory(), heads, further)
    return {
        "ref": ckpt.ref,
        "path": str(ckpt.path),
        "kind": ckpt.kind,
        "architecture": ckpt.arch,
        "family": architecture(ckpt.arch, where=ckpt.ref).title,
        "purpose": purpose,
        "parameters": ahead.model.n_parameters,
        "layers": len(ahead.model.blocks),
        "vocabulary": ahead.model.vocab_size,
        "context": ahead.model.context,
        "dtype": ahead.dtype,
        "kv_dtype": ahead.kv_dtype,
        "activations": ahead.activations,
        "formats": {
            use.format: {"tensors": use.tensors, "bytes": use.nbytes}
            for use in summarize(ckpt.source).formats
        },
        "held": dict(sorted(ahead.held.held_bytes.items(), key=lambda item: -item[1])),
        "tensors": [
            {"file": file, "held": held, **use._asdict()}
            for (file, held), use in sorted(
                ahead.held.uses.items(), key=lambda item: -item[1].held_bytes
            )
        ],
        "memory": memory,
        "adapters": [asdict(adapter) for adapter in ahead.adapters.adapters],
        "eos": [
            {"id": e.id, "text": e.text, "origins": list(e.origins)}
            for e in (eos_set(ckpt, tokenizer) if ahead.model.purpose.task == "generate" else ())
        ],
        "tokenizer": _tokenizer(ckpt, tokenizer),
        "chat_template": _template(tokenizer),
        "kernels": {
            **kernels(ahead.backend),
            "instructions": ahead.backend.instructions(settings),
            "reads": reads(ahead, settings),
            "tuned": ahead.backend.tuned(settings),
        },
        "skipped": {**ahead.model.skipped, **tokenizer.unread},
        "warnings": [
            *tokenizer.warnings,
            *ckpt.notes,
            *ahead.model.notes,
            *ahead.model.limits,
            *trouble,
            *drafting_notes(settings, ahead.model.groups, purpose["task"]),
            *backend_notes(settings),
            *ahead.notes,
            *rows_note(tokenizer, ahead.model.vocab_size),
            *_generation_notes(ckpt, ahead, settings),
        ],
    }


def _speech(ckpt: Checkpoint, settings: Settings) -> dict[str, Any] | None:
    """What a model that speaks has beside its first stage."""
    speech = speech_of(ckpt, settings)
    if speech is None:
        return None
    codec = None if speech.codec is None else speech.codec.rate
    return {
        "codebooks": speech.books,
        "voices": sorted(speech.voices),
        "clips": speech.speaker is not None,
        "codec_rate": codec,
        "notes": list(speech.notes),
    }


def _purpose(
    ckpt: Checkpoint, ahead: Preflight, settings: Settings, tokenizer: Tokenizer
) -> dict[str, Any]:
    """What the model is for, how it makes vectors and scores pairs of texts, and the prompts that
    its files declare."""
    purpose, sentence = purpose_of(ckpt, ahead.model, settings), ckpt.sentence
    pairs = purpose.pairs
    if pairs is not None and pairs.by != "vectors":
        rule, template, chat = pair_rule(ckpt, settings.rerank), tokenizer.chat_template, None
        if rule.template == "chat" and template is not None:
            chat = ChatRenderer(template, special_tokens=tokenizer.template_tokens)
        with nullcontext() if chat is None else chat:
            texts = pair_texts(ckpt, rule, tokenizer, chat, draws=pairs.by == "yes-no")
        pairs = completed(pairs, texts, ahead.model.vocab_size)
    return {
        "task": purpose.task,
        "encodes": purpose.encodes,
        "pictures": purpose.pictures,
        "speaks": _speech(ckpt, settings),
        "pooling": purpose.pooling.how,
        "normalized": purpose.pooling.normalize,
        "origin": purpose.pooling.origin,
        "dense": list(purpose.pooling.dense),
        "dimensions": sentence.dimensions or dimensions_of(purpose, ahead.model),
        "longest": longest(sentence, ahead.model.context),
        "labels": list(purpose.labels),
        "pairs": None if pairs is None else msgspec.structs.asdict(pairs),
        "prompts": dict(sentence.prompts),
        "default_prompt": sentence.prompt,
    }


def _generation_notes(ckpt: Checkpoint, ahead: Preflight, settings: Settings) -> tuple[str, ...]:
    """Notes on the model's own sampling defaults that are not applied."""
    if not settings.generation_config:
        return ()
    return generation_defaults(ckpt.generation, context=ahead.model.context)[1]


def memory_plan(
    ahead: Preflight,
    settings: Settings,
    free_bytes: int,
    heads: int = 0,
    further: MtpPlan = NO_MTP,
) -> tuple[dict[str, Any], list[str]]:
    """The planned memory in bytes and tokens, and what is wrong with it on this machine.

    heads: of queries. mtp, mtp_kv_per_token: what of `weights` and `kv_per_token` is for the layer
    that drafts, from `further`. draft_model: the weights of --draft-model; draft_kv_per_token: what
    its cache adds to a token of `cache`. state: what each kind of layer keeps, and its formula.
    kv_context, per_context: for one sequence as long as the model allows; cache, cache_tokens and
    snapshots (of recurrent state): what the engine would reserve on this machine now, null if the
    model does not fit; sequences: how many can run at once; workspace: the upper bound for
    everything else.
    """
    kinds = state_kinds(ahead.model.groups, heads, ahead.kv_dtype)
    longest = settings.ctx or ahead.model.context
    plan: dict[str, Any] = {
        "weights": ahead.weight_bytes + ahead.dense_bytes,
        "mtp": further.nbytes,
        "mtp_kv_per_token": further.per_token,
        "draft_model": ahead.draft_bytes,
        "draft_kv_per_token": _per_token(ahead),
        "weights_in_file": sum(ahead.held.file_bytes.values()),
        "adapters": ahead.adapters.nbytes,
        "adapter_slots": ahead.adapters.slots,
        "pictures": _pictures(ahead),
        "kv_per_token": sum(k.per_token for k in kinds),
        "kv_context": sum(k.of(longest) for k in kinds),
        "state": [{**asdict(k), "per_context": k.of(longest)} for k in kinds],
        "workspace": WORKSPACE_BYTES,
        "free": free_bytes,
        "cache": None,
        "cache_tokens": None,
        "sequences": settings.max_seqs,
        "snapshots": None,
        "context": None,
    }
    try:
        state = ahead.room(settings, free_bytes)
    except ModelError as e:
        return plan, [str(e)]
    plan |= {"cache": state.nbytes, "cache_tokens": state.tokens, "context": state.context}
    plan["snapshots"] = state.snapshots
    return plan, list(state.notes)


def _pictures(ahead: Preflight) -> dict[str, int] | None:
    """The memory for features of pictures, if the model reads them: tiles that it has room for, and
    what one of them is."""
    plan = ahead.features
    if plan is None or ahead.model.tower is None:
        return None
    return {"nbytes": plan.nbytes, "tiles": plan.slots, **asdict(plan.tiles)}


def _per_token(ahead: Preflight) -> int:
    """Bytes that the draft model's cache takes for a token."""
    if ahead.draft is None:
        return 0
    groups = ahead.draft.ahead.model.groups
    return sum(kind.per_token for kind in state_kinds(groups, 0, ahead.kv_dtype))


def kernels(backend: Backend) -> dict[str, Any]:
    """The backend, the operations that it has kernels for, and the other operations."""
    names = OPERATIONS
    fast = names & backend.fast()
    return {"backend": backend.name, "fast": sorted(fast), "reference": sorted(names - fast)}


def reads(ahead: Preflight, settings: Settings) -> dict[str, dict[str, Any]]:
    """How the kernels of this model's formats read weights, by name; nothing before the first start
    has measured it, unless a way is asked for."""
    kept = ahead.backend.readings(settings)
    return {name: one for name, one in kept.items() if one["held"] in ahead.held.held_bytes}


def _tokenizer(ckpt: Checkpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "kind": tokenizer_kind(ckpt),
        "tokens": tokenizer.vocab_size,
        "special": len(tokenizer.special_ids),
        "bos_id": tokenizer.bos_id,
    }


def tokenizer_kind(ckpt: Checkpoint) -> str:
    """The source of the vocabulary: a file's name, or the kind that a GGUF file names."""
    if ckpt.gguf is None:
        return next((name for name in VOCABULARIES if name in ckpt.files), BYTES)
    model = ckpt.gguf.metadata.get("tokenizer.ggml.model")
    pre = ckpt.gguf.metadata.get("tokenizer.ggml.pre")
    return f"GGUF {model}" + (f", split as {pre}" if pre else "")


def _template(tokenizer: Tokenizer) -> dict[str, Any] | None:
    if tokenizer.chat_template is None:
        return None
    used = sorted(template_special_ids(tokenizer.chat_template, tokenizer))
    return {"special_tokens": [{"id": i, "text": tokenizer.token_text(i)} for i in used]}
