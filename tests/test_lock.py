"""constraints.txt: an exact version of all that `make` installs, and nothing of any one machine."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "constraints.txt").read_text()
LINES = [line.partition("  #")[0].strip() for line in TEXT.splitlines()]
LOCKED = [Requirement(line) for line in LINES if line and not line.startswith("#")]
MAKEFILE = (ROOT / "Makefile").read_text()


def builders() -> list[str]:
    """What installs and builds the rest, as the Makefile has it."""
    (line,) = re.findall(r"^BUILDERS := (.*)$", MAKEFILE, re.MULTILINE)
    return line.split()


def wanted() -> Iterator[Requirement]:
    """All that pyproject.toml names and the Makefile adds, but this package itself."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    named = [*pyproject["build-system"]["requires"], *project["dependencies"]]
    named += [*builders(), "uv"]
    for extra in project["optional-dependencies"].values():
        named += extra
    yield from (r for r in map(Requirement, named) if r.name != project["name"])


def version(name: str, python: str) -> Version:
    """The one version that a Linux machine gets."""
    at = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
    at |= {"os_name": "posix", "platform_machine": "x86_64"}
    (found,) = (
        line.specifier
        for line in LOCKED
        if canonicalize_name(line.name) == canonicalize_name(name)
        and (line.marker is None or line.marker.evaluate(at))
    )
    (pin,) = found
    assert pin.operator == "=="
    return Version(pin.version)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_requirement_has_one_version_within_its_range(python: str) -> None:
    for requirement in wanted():
        assert version(requirement.name, python) in requirement.specifier, requirement


def test_torch_is_of_no_particular_build_and_no_line_names_an_index() -> None:
    """`2.13.0` admits builds for a CPU and for CUDA; which index to use is said by PIP_ARGS."""
    assert version("torch", "3.11").local is None
    assert not [line for line in LINES if re.search(r"://|^-|@|\+", line)]


def test_the_makefile_pins_what_builds() -> None:
    """hatchling makes an editable installation with editables; neither is fetched meanwhile."""
    assert builders() == ["pip", "hatchling", "editables"]
    assert "--no-build-isolation" in MAKEFILE
