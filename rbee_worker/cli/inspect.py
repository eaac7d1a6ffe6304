"""`rbee-worker inspect`: what a model is and what it needs here. Loads neither weights nor
torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click
import msgspec

from rbee_worker.cli.terminal import Status, dim, download_progress, one_row, size
from rbee_worker.config import Settings

Row = tuple[str, str]


@click.argument("ref", required=False, help="the model (default: RBEE_MODEL, else smollm2)")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def inspect(settings: Settings, ref: str, as_json: bool) -> None:
    """What a model is and what it needs here; loads no weights."""
    from rbee_worker.cli.report import report

    status = Status()
    try:
        found = report(settings, download_progress(status.show))
    finally:
        status.clear()
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        return
    for label, text in rows(found):
        sys.stdout.write(f"{dim(f'{label:<14}', sys.stdout)} {one_row(text)}\n")


def rows(found: Mapping[str, Any]) -> Iterator[Row]:
    """A report (cli.report) as text: (label, text), one per line."""
    yield "model", found["ref"]
    yield "file", f"{found['path']} ({found['kind']})"
    yield "architecture", f"{found['architecture']} ({found['family']})"
    yield from _list("made for", _purpose(found["purpose"]))
    yield "parameters", f"{found['parameters']:,} in {found['layers']} layers"
    yield "context", f"{found['context']:,} tokens"
    yield "compute", computed(found)
    yield from _list(
        "in the file",
        (f"{k}: {v['tensors']} tensors, {size(v['bytes'])}" for k, v in found["formats"].items()),
    )
    yield from _list("held as", map(_held, found["tensors"]))
    yield from _list("adapters", map(_adapter, found["adapters"]))
    yield from _list("memory", _memory(found["memory"]))
    yield from _list(
        "ends at",
        (f"{e['id']} {e['text']} (from {', '.join(e['origins'])})" for e in found["eos"]),
    )
    yield "chat template", _template(found["chat_template"])
    vocabulary = found["tokenizer"]
    yield (
        "tokenizer",
        f"{vocabulary['kind']}: {vocabulary['tokens']:,} tokens, {vocabulary['special']} special",
    )
    kernels = found["kernels"]
    fast, all_ops = len(kernels["fast"]), len(kernels["fast"]) + len(kernels["reference"])
    target = f" ({kernels['instructions']})" if kernels["instructions"] else ""
    fast_here = f"{kernels['backend']}{target}: {fast} of {all_ops} operations are fast here"
    yield from _list("kernels", (fast_here, *reading_lines(kernels["reads"]), *kernels["tuned"]))
    yield from _list("not read", (f"{name}: {why}" for name, why in found["skipped"].items()))
    yield from _list("warning", found["warnings"])


def computed(found: Mapping[str, Any]) -> str:
    """What a model is computed in: activations, where they are rounded, and the cache."""
    rounded = {"i8": "8 bits", "bf16": "bf16"}.get(found["activations"], "")
    if not rounded or found["activations"] == found["dtype"]:
        return f"{found['dtype']}, cache {found['kv_dtype']}"
    return f"{found['dtype']}, activations rounded to {rounded}, cache {found['kv_dtype']}"


def reading_lines(reads: Mapping[str, Any]) -> Iterator[str]:
    """How kernels read weights, one line for each."""
    for name, one in reads.items():
        if not one["gb_s"]:
            yield f"  {name} reads {one['way']}, which was not measured"
            continue
        alone, several = one["way"].rsplit(":", 1)
        rates = [one["gb_s"].get(part, "?") for part in (alone, several)]
        yield f"  {name} reads {one['way']}: {rates[0]} GB/s with one token, {rates[1]} with 8"


def _purpose(purpose: Mapping[str, Any]) -> Iterator[str]:
    """What the model is for."""
    how = f"{purpose['dimensions']} numbers, pooled by {purpose['pooling']}"
    if purpose["dense"]:
        how += f", mapped to {' and to '.join(map(str, purpose['dense']))}"
    how += " and normalized" if purpose["normalized"] else ""
    how += f" ({purpose['origin']})"
    if purpose["encodes"]:
        yield "text (completions, jobs; chat with a template), from prompts that an encoder reads"
        return
    if (speaks := purpose["speaks"]) is not None:
        yield f"speech: codes of {speaks['codebooks']} codebooks from text"
        voices = ", ".join((*speaks["voices"], *(["clips"] if speaks["clips"] else []), "none"))
        yield f"voices: {voices}"
        if speaks["codec_rate"]:
            yield f"sound of {speaks['codec_rate']:,} samples a second, by --codec"
        yield from speaks["notes"]
        return
    if purpose["task"] == "generate":
        pictures = ", from prompts with pictures" if purpose["pictures"] else ""
        yield f"text (chat, completions, jobs){pictures}; vectors of {how}"
        yield from _scores(purpose["pairs"])
        return
    if purpose["task"] == "classify":
        yield f"classes: {', '.join(purpose['labels'])}"
        yield from _scores(purpose["pairs"])
    else:
        yield f"vectors of {how}"
    yield f"texts of up to {purpose['longest']:,} tokens"
    for name, text in purpose["prompts"].items():
        default = ", the default" if name == purpose["default_prompt"] else ""
        yield f"prompt {name}{default}: {text!r}"


_TEMPLATES = {
    "chat": "the chat template",
    "gguf": "the file's template for rerankers",
    "model card": "the template of Qwen3-Reranker's model card",
}


def _scores(pairs: Mapping[str, Any] | None) -> Iterator[str]:
    """How a model that reads two texts together scores them."""
    if pairs is None or pairs["by"] == "vectors":
        return
    by = "their class" if pairs["by"] == "classes" else "whether it answers yes or no"
    template = f", in {_TEMPLATES[pairs['template']]}" if pairs["template"] else ""
    told = ", with an instruction" if pairs["instructed"] else ""
    yield f"scores of two texts by {by}{template}{told} ({pairs['origin']})"


def _held(use: Mapping[str, Any]) -> str:
    """How the backend stores the tensors of one format."""
    return (
        f"{use['held']}: {use['tensors']} of {use['file']}, "
        f"{size(use['file_bytes'])} -> {size(use['held_bytes'])}"
    )


def _adapter(adapter: Mapping[str, Any]) -> str:
    """An adapter of --lora."""
    held = f"rank {adapter['rank']}, {size(adapter['nbytes'])}"
    return f"{adapter['name']}: {held} ({adapter['ref']})"


def _memory(plan: Mapping[str, Any]) -> Iterator[str]:
    yield f"weights {size(plan['weights'])} ({size(plan['weights_in_file'])} on disk)"
    if plan["mtp"]:
        more = size(plan["mtp_kv_per_token"])
        yield f"  of that {size(plan['mtp'])} for drafts (MTP), which take {more} of cache a token"
    if plan["adapters"]:
        more = f", of that room for {plan['adapter_slots']} more" if plan["adapter_slots"] else ""
        yield f"adapters {size(plan['adapters'])}{more}"
    if plan["draft_model"]:
        more = size(plan["draft_kv_per_token"])
        yield f"draft model {size(plan['draft_model'])}, and {more} of cache a token"
    whole, grows = size(plan["kv_context"]), plan["kv_per_token"]
    fixed = sum(state["per_sequence"] for state in plan["state"])
    each = [f"{size(grows)} a token"] if grows else []
    each += [f"{size(fixed)} a sequence, however long it gets"] if fixed else []
    full = [f"{whole} for one sequence of the full context"] if grows else []
    yield f"cache {', '.join((' and '.join(each), *full))}"
    for state in plan["state"]:
        yield f"  {state['kind']}: {state['formula']} = {size(_bytes(state))}"
    if (pictures := plan["pictures"]) is not None:
        side, rows = pictures["side"], pictures["rows"]
        yield (
            f"pictures {size(pictures['nbytes'])}: features of {pictures['tiles']} tiles of "
            f"{side} x {side} pixels, {rows} tokens each"
        )
    if plan["cache"] is not None:
        parts = [f"{plan['cache_tokens']:,} tokens"] if grows else []
        parts += [f"{plan['sequences']} sequences"] if fixed else []
        parts += [f"{plan['snapshots']} snapshots"] if plan["snapshots"] else []
        room = ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]
        yield (
            f"here: {size(plan['cache'])} of cache for {room}, "
            f"sequences up to {plan['context']:,}; {size(plan['free'])} are free"
        )
    yield f"at most {size(plan['workspace'])} for everything else"


def _bytes(state: Mapping[str, Any]) -> int:
    """The number of bytes that a state's formula gives."""
    return int(state["per_token"] or state["per_sequence"])


def _template(template: Mapping[str, Any] | None) -> str:
    if template is None:
        return "no"
    texts = " ".join(t["text"] for t in template["special_tokens"])
    return f"yes, with {texts}" if texts else "yes, without special tokens"


def _list(label: str, texts: Any) -> Iterator[Row]:
    """Several texts under one label."""
    for text in texts:
        yield label, text
        label = ""
