"""Kernels of the cuda backend run in Triton's interpreter, or with RBEE_TEST_GPU=1 on a GPU."""

import os

import pytest

ON_CARD = os.environ.get("RBEE_TEST_GPU") == "1"


@pytest.fixture(scope="session")
def device():
    """Where the kernels run."""
    return "cuda" if ON_CARD else "cpu"


@pytest.fixture(scope="session")
def dtypes():
    """The types that kernels are tried in: the interpreter neither multiplies nor rounds
    bfloat16 as the card does."""
    import torch

    return [torch.float32, torch.float16, *([torch.bfloat16] if ON_CARD else [])]
