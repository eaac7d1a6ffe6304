"""Runs a model in every form of step that it will have: a backend that compiles kernels when they
are first used then has them all, and keeps them for later starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from rbee_worker.config import Settings
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import Finished, Submit
from rbee_worker.errors import InferenceFailed
from rbee_worker.loading.load import load_engine
from rbee_worker.loading.preflight import outline_of, preflight
from rbee_worker.models.random import open_model
from rbee_worker.ops.backend import Backend, Warmed
from rbee_worker.ops.backends import choose_backend
from rbee_worker.types import SamplingParams

_SHORT, _TOKENS = 5, 4
_WAYS: tuple[dict[str, Any], ...] = (  # each kind of draw
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1},
    {"temperature": 0.8, "top_p": 0.9, "min_p": 0.05, "presence_penalty": 0.2},
    {"temperature": 1.0, "logprobs": 2, "logit_bias": {1: 1.0}},
)
Told = Callable[[int, int, str], None]  # what is done, of how much, and the last one


def run_once(settings: Settings, told: Told) -> Warmed:
    """Load `settings.model` and run it. Raises as `load_engine` does, and InferenceFailed."""
    settings = msgspec.structs.replace(settings, prefix_cache=False)  # prompts are computed
    backend, began = choose_backend(settings), time.perf_counter()
    before = backend.kernels()[1]
    note = _tuned(settings, backend, told)
    engine, info = load_engine(settings, lambda _: None)
    forms = list(_forms(engine, settings))
    for number, (name, requests) in enumerate(forms, 1):
        _run(engine, requests)
        told(number, len(forms), name)
    folder, count = backend.kernels()
    seconds = time.perf_counter() - began
    return Warmed(info.device, count, count - before, seconds, folder, note)


def _tuned(settings: Settings, backend: Backend, told: Told) -> str:
    """Measure what the backend's kernels can choose for this model, so that what runs then is what
    later starts run. Returns why that could not be kept, or ""."""
    ckpt = open_model(settings.model, cache_dir=settings.cache_dir, mmproj=settings.mmproj)
    plan = preflight(ckpt, settings)
    why = backend.tune(outline_of(ckpt, plan.model.context), settings, plan.dtype, told)
    return why and f"the measured tile shapes could not be kept: {why}"


def _forms(
    engine: Engine, settings: Settings
) -> Iterator[tuple[str, list[tuple[int, dict[str, Any]]]]]:
    """Names of steps, and the requests that make them: lengths of prompts, and parameters."""
    longest = min(engine.context - _TOKENS - 1, settings.token_budget)
    for way in _WAYS:
        yield "one sequence", [(_SHORT, way)]
    count = 2
    while count <= min(settings.max_seqs, engine.pool.usage().total // 4):
        yield f"{count} sequences", [(_SHORT, way) for way in _WAYS * -(-count // 4)][:count]
        count *= 2
    for length in sorted({min(length, longest) for length in (32, 100, 300, longest)}):
        yield f"a prompt of {length} tokens", [(length, _WAYS[0])]
    yield "prompts together", [(min(300, longest), _WAYS[0]), (min(40, longest), _WAYS[0])]


def _run(engine: Engine, requests: list[tuple[int, dict[str, Any]]]) -> None:
    for n, (length, way) in enumerate(requests):
        params = SamplingParams(max_tokens=_TOKENS, ignore_eos=True, **way)
        ids = tuple((7919 * n + 31 * i) % 50 for i in range(length))
        engine.submit(Submit(seq=str(n), prompt_ids=ids, params=params))
    while not engine.idle:
        for output in engine.step():
            if isinstance(output, Finished) and output.error is not None:
                raise InferenceFailed(output.error)
