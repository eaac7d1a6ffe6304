"""Triton's interpreter, without work that changes no result: a launch takes half the time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def quicken() -> None:
    """Makes every later launch of this process cheaper, where this Triton's interpreter has the
    parts that are replaced; they are its own, and another release may have none of them."""
    if not all(
        hasattr(interpreter, p) for p in ("_LangPatchScope", "_patch_lang", "_get_np_dtype")
    ):
        return
    _patch_the_language_once_a_launch()
    _make_no_table_for_a_type()
    # What it computes is asserted in debug mode only, which these tests do not use.
    options = interpreter.interpreter_builder.options
    object.__setattr__(options, "sanitize_overflow", False)


def _patch_the_language_once_a_launch() -> None:
    """A function that a kernel calls finds the language changed already, in both modules that
    name it; the interpreter looks through both again at every call."""
    patch = interpreter._patch_lang
    both = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    launches: list[Any] = []

    def end() -> None:
        launches.pop().restore()

    def once(_fn: object) -> Any:
        if not launches:
            launches.append(patch(both))
        return SimpleNamespace(restore=end)  # which a launch calls, and an inner call does not

    interpreter._patch_lang = once


def _make_no_table_for_a_type() -> None:
    made = interpreter._get_np_dtype
    known: dict[str, np.dtype[Any]] = {}

    def looked_up(dtype: Any) -> np.dtype[Any]:
        scalar = dtype.scalar
        if scalar.name not in known:
            known[scalar.name] = made(scalar)
        return known[scalar.name]

    interpreter._get_np_dtype = looked_up
