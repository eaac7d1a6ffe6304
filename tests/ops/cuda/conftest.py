"""Kernels of the cuda backend run in Triton's interpreter, or with RBEE_TEST_GPU=1 on a GPU."""

import os
from typing import Any

import pytest

ON_CARD = os.environ.get("RBEE_TEST_GPU") == "1"


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter() -> None:
    if not ON_CARD:
        from tests.ops.cuda.interpreter import quicken

        quicken()


@pytest.fixture(scope="session")
def device():
    """Where the kernels run."""
    return "cuda" if ON_CARD else "cpu"


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that a launch function allocates holds NaN until a kernel writes it."""
    import torch

    empty, empty_like = torch.empty, torch.empty_like

    def filled(made: Any) -> Any:
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", lambda *args, **how: filled(empty(*args, **how)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **how: filled(empty_like(*args, **how)))


@pytest.fixture
def rows_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's products have one order of sums wherever a row lies in a tile, as a card's
    have: numpy's, by its library's kernels for some processors (AVX2), has another at an edge."""
    if ON_CARD:
        return
    import numpy as np
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def dot(self: Any, a: Any, b: Any, d: Any, *how: Any) -> Any:
        x, y = (part.data.astype(d.data.dtype) for part in (a, b))
        total = np.zeros_like(d.data)
        for k in range(x.shape[-1]):
            total += x[..., :, k, None] * y[..., k, None, :]
        return TensorHandle(total + d.data, d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", dot)


@pytest.fixture(scope="session")
def dtypes():
    """The types that kernels are tried in: the interpreter neither multiplies nor rounds
    bfloat16 as the card does."""
    import torch

    return [torch.float32, torch.float16, *([torch.bfloat16] if ON_CARD else [])]
