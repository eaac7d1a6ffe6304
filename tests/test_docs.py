"""The documentation says what the code does: tables are compared with the tables in the code."""

import re
from pathlib import Path

import pytest

from rbee_worker.checkpoint.names import DIALECTS
from rbee_worker.config import OPTIONS, Option
from rbee_worker.models import ARCHITECTURES

ROOT = Path(__file__).parents[1]
DOCS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"]


def settings_row(option: Option) -> str:
    """One setting as docs/worker-api.md has it."""
    if option.kind is bool:
        values, default = "switch", "on" if option.default else "off"
        flag = f"`{option.flag}`, `--no-{option.flag[2:]}`"
    else:
        usable = [f"`{c}`" for c in option.choices if c not in option.later]
        later = [f"`{c}` (planned)" for c in option.later]
        span = f"{option.low}" if option.low == option.high else f"{option.low}..{option.high}"
        values = " ".join(usable + later) or (span if option.kind is int else "text")
        default = f"`{option.default}`" if option.default != "" else "empty"
        flag = ", ".join(f"`{f}`" for f in (option.flag, *option.also))
    return f"| {flag} | `{option.env}` | {values} | {default} | {option.help} |"


def test_every_setting_is_documented_as_it_is() -> None:
    text = (ROOT / "docs/worker-api.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| `--[a-z-]+`.*`RBEE_", line)]
    assert rows == [settings_row(o) for o in OPTIONS]


@pytest.mark.parametrize("page", ["README.md", "docs/architectures.md"])
def test_architectures_said_to_work_are_those_that_do(page: str) -> None:
    text = (ROOT / page).read_text()
    works = [line for line in text.splitlines() if line.startswith("|") and "| works |" in line]
    named = {name for line in works for name in re.findall(r"`([a-z0-9_]+)`", line.split("|")[2])}
    assert set(ARCHITECTURES) <= named <= set(ARCHITECTURES) | set(DIALECTS)


@pytest.mark.parametrize("page", DOCS, ids=lambda p: p.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    tests = re.findall(r"`(tests/[\w/.]+\.py)", text)
    missing = [x for x in links if not (page.parent / x).exists()]
    missing += [x for x in tests if not (ROOT / x).exists()]
    assert not missing


def named_tests() -> list[tuple[str, str]]:
    """`tests/file.py::name` wherever a page says that a test proves something."""
    text = "\n".join(p.read_text() for p in DOCS)
    return sorted(set(re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", text)))


@pytest.mark.parametrize(("file", "name"), named_tests())
def test_a_test_that_a_page_names_exists(file: str, name: str) -> None:
    assert f"def {name}(" in (ROOT / file).read_text()


def test_the_readme_shows_every_make_target_that_ci_runs() -> None:
    ci = (ROOT / ".ci/run").read_text()
    targets = re.findall(r"^make (\S+)$", ci, re.MULTILINE)
    assert targets == ["lint", "test", "test-slow"]
    readme = (ROOT / "README.md").read_text()
    assert [t for t in targets if f"make {t}" not in readme] == []
