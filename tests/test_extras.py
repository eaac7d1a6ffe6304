"""Which import errors become a line, and that pyproject.toml's extras have what it promises."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from rbee_worker.errors import UsageError
from rbee_worker.extras import EXTRAS, need, said_of, usage_error

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {"opentelemetry": "opentelemetry-sdk"}


@pytest.mark.parametrize(("package", "extra"), [(p, extra) for p, (extra, _) in EXTRAS.items()])
def test_an_extra_has_the_package_that_it_is_named_for(package: str, extra: str) -> None:
    names = [Requirement(r).name for r in PROJECT["optional-dependencies"][extra]]
    assert DISTRIBUTIONS.get(package, package) in names


def test_what_is_installed_is_not_asked_for() -> None:
    need("numpy", "opentelemetry.sdk")
    with pytest.raises(UsageError, match=r"^opentelemetry\.sdk\.none\.at_all is not.*\[otel\]"):
        need("numpy", "opentelemetry.sdk.none.at_all")


def test_a_package_that_is_there_and_broken_is_named_with_its_own_words() -> None:
    error = ImportError("libtorch.so: no such file", name="torch._C")
    said = said_of(error)
    assert said is not None
    assert "cannot import torch._C: libtorch.so: no such file" in said[0]
    assert "--force-reinstall 'rbee-worker[torch]'" in said[1]


@pytest.mark.parametrize(
    "error",
    [
        ImportError("cannot import name 'x'", name="rbee_worker.ops"),  # a mistake of ours
        ModuleNotFoundError("No module named 'termios'", name="termios"),  # of another system
        ImportError("nothing known"),
        ValueError("x"),
    ],
)
def test_other_errors_are_not_worded(error: Exception) -> None:
    assert usage_error(error) is None
