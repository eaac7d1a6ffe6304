"""Kernels of the cuda backend run in Triton's interpreter, or with RBEE_TEST_GPU=1 on a GPU."""

import os
from typing import Any

import pytest

ON_CARD = os.environ.get("RBEE_TEST_GPU") == "1"


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


@pytest.fixture(scope="session")
def dtypes():
    """The types that kernels are tried in: the interpreter neither multiplies nor rounds
    bfloat16 as the card does."""
    import torch

    return [torch.float32, torch.float16, *([torch.bfloat16] if ON_CARD else [])]
