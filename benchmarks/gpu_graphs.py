"""Compile Triton kernels in parallel, time what CUDA graphs replay, and go on after failures."""

from __future__ import annotations

import statistics
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from rbee_worker.ops.cuda.tuning import compiling

__all__ = ["compiling", "elapsed", "guarded", "say", "seconds"]


def say(text: str) -> None:
    """A line of output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def guarded(call: Callable[[], Any], name: str = "") -> Any:
    """What a call returns, or None after its error is printed."""
    try:
        return call()
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        say(
            f"FAILED {name} {type(error).__name__} {str(error)[:300]!r} {place.name}:{place.lineno}"
        )
        return None


def seconds(launches: Callable[[], None], replays: int = 15) -> float:
    """Median seconds of a replayed graph of these launches."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        launches()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launches()
    graph.replay()
    return statistics.median(elapsed(graph.replay) for _ in range(replays))


def elapsed(call: Callable[[], Any]) -> float:
    """Seconds of a call on the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3
