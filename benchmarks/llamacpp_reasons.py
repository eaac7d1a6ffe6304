"""Why a test of llama.cpp's server fails with a worker: `benchmarks.llamacpp_tests`."""

from __future__ import annotations

import re
from typing import NamedTuple

from benchmarks.llamacpp_shim import MARK


class Reason(NamedTuple):
    """Why a test fails, where this pattern is in what pytest wrote of the failure."""

    pattern: str
    words: str


_OPTIONS = MARK.strip() + r" --"
REASONS = (  # the first that fits
    Reason(_OPTIONS + "lora", "adapters are chosen by name, not by scales of numbered ones"),
    Reason(_OPTIONS + "(models|model-draft|no-models)", "a worker serves one model"),
    Reason(_OPTIONS + "(mcp|tools|ui-mcp)", "tools are run by clients, not by the server"),
    Reason(_OPTIONS + "media", "files are not opened because of a request"),
    Reason(_OPTIONS + "(slot-save|sleep)", "slots are not saved, and a worker does not sleep"),
    Reason(_OPTIONS + "(context-shift|grp-attn)", "a context is never cut or shifted"),
    Reason(_OPTIONS + "spec", "speculation has other options, and its own tests"),
    Reason(_OPTIONS + "chat-template", "templates by llama.cpp's own names: the model's is used"),
    Reason(
        "--thinking off: ", "reasoning that a template cannot switch off: the worker does not start"
    ),
    Reason(_OPTIONS + "reasoning", "how much a model reasons is asked for by requests"),
    Reason(MARK, "another option of llama-server without a counterpart"),
    Reason("nothing is downloaded", "needs a download"),
    Reason("def test_cors_", "other sites are named one by one; all else is refused"),
    Reason("def test_router_", "a worker serves one model"),
    Reason("There is no route", "a route that the worker does not have"),
    Reason("Process-Start-Time-Unix|llamacpp:", "metrics have the worker's names"),
    Reason("is not fetched: this worker opens", "a picture's URL is not fetched"),
    Reason("of which no vectors are made", "no vectors are made of pictures"),
    Reason("KeyError: 'models'", "models are listed in OpenAI's form alone"),
    Reason(r"match_regex\('\((cat|frog)", "words of tinygemma3"),
    Reason(r"E +assert [\d.]+ < 0.001", "vectors are normalised as the model's files say"),
    Reason(
        r"expected `str \| array`|1..2048 strings|input: is required|multimodal",
        "texts for vectors in forms that OpenAI does not have",
    ),
    Reason(
        "is not (a parameter of chat|known here|implemented)|: not implemented; only",
        "a parameter that is refused by name",
    ),
    Reason(
        "takes no tools|no marks of reasoning|is not read by this model's chat template",
        "the model that stands in has no tools or reasoning",
    ),
    Reason(
        "leaves no space in the context|must be at most the context",
        "counts tokens of stories260K: the model that stands in has one token for each byte",
    ),
    Reason(
        r"E +assert (?![2-5]\d\d == )\d+ == \(?\d+",
        "counts of tokens, slots or models of stories260K",
    ),
    Reason("match_regex|re_content|re_prefill", "words of stories260K"),
    Reason(
        "is more than the [0-9]+ tokens the model was made for",
        "a longer context than the model that stands in has",
    ),
)
OTHER = "another form or default: see below"


def reason_of(text: str) -> str:
    """The reason of a failure, from all that pytest wrote of it."""
    for reason in REASONS:
        if re.search(reason.pattern, text) is not None:
            return reason.words
    last = [line[1:].strip() for line in text.splitlines() if line.startswith("E  ")]
    told = re.sub(r"'?/[^ ']*/[^ ']*'?", "a path", " ".join(last[:1]))
    return f"{OTHER}: {told[:120]}"
