"""Who may import whom: the torch-free part stays torch-free, and no part reaches upwards."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rbee_worker"

# Part -> parts it may import at run time (`if TYPE_CHECKING` is free). A missing part may have all.
BASE = {"types", "errors", "config", "params", "extras"}
MAY = {
    "types": set(),
    "errors": set(),
    "extras": {"errors"},
    "config": {"errors"},
    "params": BASE,
    "observe": BASE | {"observe"},
    "wire": {"types"},
    "client": {"errors", "wire", "client"},
    "server": BASE | {"observe", "wire", "engine", "server"},
    "checkpoint": BASE | {"checkpoint"},
    "tokenizer": BASE | {"checkpoint", "tokenizer"},
    "state": BASE | {"state", "ops"},
    "ops": BASE | {"checkpoint", "state", "ops"},
    "layers": BASE | {"checkpoint", "state", "ops", "layers"},
    "models": BASE | {"checkpoint", "state", "ops", "layers", "models"},
}
TORCH_FREE = [
    "types",
    "errors",
    "extras",
    "config",
    "params",
    "observe.narration",
    "observe.log",
    "checkpoint",
    "models",
    "tokenizer.load",
    "tokenizer.eos",
    "tokenizer.chat",
    "tokenizer.stream",
    "engine.messages",
    "engine.scheduler",
    "engine.client",
    "state.specs",
    "state.blocks",
    "cli.main",
    "cli.report",
    "cli.chat",
    "cli.prompt",
]


def part_of(module: str) -> str:
    """rbee_worker.engine.client -> engine; "" for a name of the package itself"""
    part = module.split(".")[1]
    return part if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").exists() else ""


def imported(file: Path) -> set[str]:
    """Parts of this package that a file imports at run time."""
    found: set[str] = set()
    nodes = list(ast.parse(file.read_text()).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            nodes += node.orelse
            continue
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names]
        found |= {part_of(n) for n in names if n.startswith("rbee_worker.")}
        nodes += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
    return found


@pytest.mark.parametrize("part", MAY)
def test_a_part_imports_only_what_stands_below_it(part: str) -> None:
    files = [PACKAGE / f"{part}.py", *(PACKAGE / part).rglob("*.py")]
    wrong = {f.name: imported(f) - MAY[part] - {""} for f in files if f.exists()}
    assert not {name: extra for name, extra in wrong.items() if extra}
    assert any(f.exists() for f in files)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_torch_is_not_imported_by(module: str) -> None:
    code = f"import sys, rbee_worker.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0


def test_the_direction_test_sees_an_upward_import(tmp_path: Path) -> None:
    file = tmp_path / "low.py"
    file.write_text("def f():\n    from rbee_worker.engine.client import EngineClient\n")
    assert imported(file) == {"engine"}
