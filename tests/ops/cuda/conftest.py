"""Kernels run under Triton's interpreter on the CPU, or on a card where RBEE_TEST_GPU=1."""

import os

import pytest

ON_CARD = os.environ.get("RBEE_TEST_GPU") == "1"
if not ON_CARD:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported


def _mend_the_interpreter() -> None:
    """From 2.4 on, numpy makes no int of an array with one number, as the interpreter asks it to
    for every bound of a loop. And it prepares a module's language for every call inside a kernel;
    once is enough, and takes far less time."""
    from triton.runtime import interpreter

    patch, call = interpreter._patch_lang_tensor, interpreter.InterpretedFunction.__call__
    prepared = set()

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def called(self, *args, **kwargs):
        if self.fn.__module__ in prepared:
            return self.rewrite()(*args, **kwargs)
        prepared.add(self.fn.__module__)
        return call(self, *args, **kwargs)

    interpreter._patch_lang_tensor = patched
    interpreter.InterpretedFunction.__call__ = called


if not ON_CARD:
    _mend_the_interpreter()


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
