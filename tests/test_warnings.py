"""A warning of our own fails a test, other people's do not: `filterwarnings` in pyproject.toml."""

from __future__ import annotations

import asyncio
import gc
import warnings

import numpy as np
import pytest


def warn_from(module: str, category: type[Warning] = UserWarning) -> None:
    """As if a line of `module` had called `warnings.warn`."""
    warnings.warn_explicit("said", category, f"{module}.py", 1, module=module)


@pytest.mark.parametrize("module", ["rbee_worker.ops", "rbee_worker", "tests.ops.x", "benchmarks"])
@pytest.mark.parametrize("category", [UserWarning, RuntimeWarning, ResourceWarning, ImportWarning])
def test_a_warning_of_ours_is_an_error(module: str, category: type[Warning]) -> None:
    with pytest.raises(category, match="said"):
        warn_from(module, category)


@pytest.mark.parametrize("module", ["transformers.utils", "torch", "rbee_workers", "testsuite"])
@pytest.mark.parametrize("category", [UserWarning, FutureWarning, DeprecationWarning])
def test_a_warning_of_others_is_no_error(module: str, category: type[Warning]) -> None:
    with warnings.catch_warnings(record=True) as said:
        warn_from(module, category)
    assert [w.category for w in said] == [category]


def test_this_module_is_known_by_the_name_that_the_filter_has() -> None:
    with pytest.raises(UserWarning, match="said"):
        warnings.warn("said", UserWarning, stacklevel=1)


def test_what_numpy_says_of_our_numbers_is_an_error() -> None:
    with pytest.raises(RuntimeWarning, match="overflow"):
        np.float32(3e38) * np.float32(10)
    with pytest.raises(RuntimeWarning, match="empty slice"):  # said by numpy's own Python code
        np.mean(np.zeros(0, np.float32))


def test_a_coroutine_that_is_never_awaited_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: told.append(args.exc_type))
    coroutine = asyncio.sleep(0)
    del coroutine
    gc.collect()
    assert told == [RuntimeWarning]


def test_a_leak_is_an_error_whoever_runs_when_it_is_found() -> None:
    with pytest.raises(ResourceWarning):
        warn_from("asyncio.events", ResourceWarning)
