"""The documentation says what the code does: tables are compared with the tables in the code."""

import re
from pathlib import Path

import pytest

from benchmarks import cpu_error as formats
from rbee_worker.checkpoint.formats import DECODABLE
from rbee_worker.checkpoint.names import DIALECTS
from rbee_worker.config import OPTIONS, Option
from rbee_worker.models import ARCHITECTURES, ENCODERS, PAIRS, SEEING, SPEAKING
from rbee_worker.ops.cpu.shared.forms import WITHIN, forms
from rbee_worker.ops.cpu.shared.held import held_as
from rbee_worker.verify.compare import TOLERANCE
from tests.archs import page as architectures
from tests.archs.new import PLACES

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
        span = f"above {span}" if option.above else span
        values = " ".join(usable + later) or (span if option.kind in (int, float) else "text")
        default = f"`{option.default}`" if option.default not in ("", None) else "empty"
        flag = ", ".join(f"`{f}`" for f in (option.flag, *option.also))
    return f"| {flag} | `{option.env}` | {values} | {default} | {option.help} |"


def test_every_setting_is_documented_as_it_is() -> None:
    text = (ROOT / "docs/worker-api.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| `--[a-z0-9-]+`.*`RBEE_", line)]
    assert rows == [settings_row(o) for o in OPTIONS]


@pytest.mark.parametrize("page", ["README.md", "docs/architectures.md"])
def test_architectures_said_to_work_are_those_that_do(page: str) -> None:
    text = (ROOT / page).read_text()
    works = [line for line in text.splitlines() if line.startswith("|") and "| works |" in line]
    named = {name for line in works for name in re.findall(r"`([a-z0-9_-]+)`", line.split("|")[2])}
    missing = sorted({*ARCHITECTURES, *ENCODERS, *PAIRS, *SEEING, *SPEAKING} - named)
    assert not missing, f"{page}: name these in the second column of a row that `works`: {missing}"
    extra = sorted(named - {*ARCHITECTURES, *ENCODERS, *PAIRS, *SEEING, *SPEAKING, *DIALECTS})
    assert not extra, f"{page}: no family of these works: {extra}"


def test_every_family_is_in_every_table() -> None:
    told = architectures.problems()
    assert not told, "\n".join(told)


def test_the_page_of_architectures_is_what_its_tables_make() -> None:
    """All but the digits of the measured errors, which differ from processor to processor."""
    text = architectures.PAGE.read_text()
    errors = architectures.written_errors(text)
    assert architectures.page(errors) == text, f"stale: run {architectures.COMMAND}"
    figures = [e for e in errors.values() if e != "-"]
    assert architectures.UNKNOWN not in figures, f"not measured: run {architectures.COMMAND}"
    assert all(0 < float(e) < TOLERANCE["f32"] for e in figures)


@pytest.mark.parametrize("page", DOCS, ids=lambda p: p.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    tests = re.findall(r"`(tests/[\w/.]+\.py)", text)
    missing = [x for x in links if not (page.parent / x).exists()]
    missing += [x for x in tests if not (ROOT / x).exists()]
    assert not missing


@pytest.mark.parametrize("page", DOCS, ids=lambda p: p.name)
def test_named_tests_exist(page: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", page.read_text()):
        assert f"\ndef {name}(" in (ROOT / file).read_text(), (file, name)


def test_code_that_the_page_on_adding_a_model_shows_is_the_code() -> None:
    """Every line of its Python stands in the package or the tests."""
    text = (ROOT / "docs/adding-a-model.md").read_text()
    shown = [
        s for block in re.findall(r"```python\n(.*?)```", text, re.S) for s in block.split("\n")
    ]
    files = [*(ROOT / "rbee_worker").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    there = {line.strip() for file in files for line in file.read_text().splitlines()}
    assert len(shown) > 60
    assert [s for s in shown if s.strip() not in there and s.strip() != "..."] == []


def test_the_page_on_adding_a_model_names_every_place() -> None:
    text = (ROOT / "docs/adding-a-model.md").read_text()
    table = re.findall(r"^\| `([\w./]+)` \|", text, re.MULTILINE)
    assert table[: len(PLACES)] == [place for place, _ in PLACES]
    assert [place for place, _ in PLACES if not (ROOT / place).exists()] == []


def named_tests() -> list[tuple[str, str]]:
    """`tests/file.py::name` wherever a page says that a test proves something."""
    text = "\n".join(p.read_text() for p in DOCS)
    return sorted(set(re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", text)))


@pytest.mark.parametrize(("file", "name"), named_tests())
def test_a_test_that_a_page_names_exists(file: str, name: str) -> None:
    assert f"def {name}(" in (ROOT / file).read_text()


def test_the_readme_shows_every_make_target_that_ci_runs() -> None:
    ci = (ROOT / ".ci/run").read_text()
    targets = re.findall(r"^(?:answer=\$\()?make ([\w-]+)\)?$", ci, re.MULTILINE)
    assert targets == ["run", "size", "lint", "test", "test-slow", "soak"]
    readme = (ROOT / "README.md").read_text()
    assert [t for t in targets if f"make {t}" not in readme] == []


def test_the_page_of_formats_is_what_its_tables_make() -> None:
    """All but the digits of the measured errors; those are within what the tests allow."""
    found, packed = formats.written()
    assert formats.page(found, packed) == formats.PAGE.read_text(), f"stale: {formats.COMMAND}"
    assert set(found) == DECODABLE - {"F64", "F8_B128"}  # these are held as f32
    for name, errors in found.items():
        assert set(errors) == set(forms(held_as(name)))
        assert all(0 < float(errors[form]) < WITHIN[form] for form in errors)
    assert {name[:3] for name in packed} == {"IQ1", "IQ2", "IQ3"}
