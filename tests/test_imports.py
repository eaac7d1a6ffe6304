"""Who may import whom: the torch-free part stays torch-free, and no part reaches upwards."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import structure

PACKAGE = Path(__file__).parents[1] / "rbee_worker"

# Part -> parts it may import at run time (`if TYPE_CHECKING` is free).
DATA = {"types", "answer_parts", "sequence_end", "model_info"}
BASE = DATA | {"errors", "config", "params", "machine", "extras", "adapter_spec", "kept_memory"}
MAY = {
    "answer_parts": set(),
    "sequence_end": set(),
    "types": {"answer_parts", "sequence_end"},
    "model_info": {"types"},
    "answer": DATA | {"answer"},
    "errors": set(),
    "extras": {"errors", "machine"},
    "adapter_spec": {"errors"},
    "config": {"errors", "adapter_spec", "config"},
    "params": BASE | {"answer"},
    "observe": BASE | {"observe"},
    "wire": DATA,
    "journal": DATA | {"errors", "journal"},
    "client": DATA | {"errors", "wire", "client"},
    "speech": BASE | {"checkpoint", "tokenizer", "engine", "speech"},
    "server": BASE | {"observe", "wire", "engine", "session", "journal", "speech", "server"},
    "checkpoint": BASE | {"checkpoint"},
    "tokenizer": BASE | {"checkpoint", "tokenizer"},
    "state": {"state"},
    "ops": BASE | {"checkpoint", "state", "ops"},
    "adapters": BASE | {"checkpoint", "ops", "adapters"},
    "layers": BASE | {"checkpoint", "state", "ops", "layers"},
    "models": BASE | {"checkpoint", "state", "ops", "layers", "models"},
    "constraints": BASE | {"constraints"},
    "pictures": BASE | {"checkpoint", "tokenizer", "pictures"},
    "engine": BASE | {"constraints", "pictures", "state", "ops", "engine"},
    "machine": {"cgroups"},
    "cgroups": set(),
    "kept_memory": set(),
    "heap": set(),
    "loading": BASE
    | {"checkpoint", "tokenizer", "state", "ops", "models", "engine", "adapters", "loading"},
    "process": BASE | {"constraints", "observe", "ops", "engine", "loading", "heap", "process"},
    "session": BASE
    | {"answer", "checkpoint", "tokenizer", "observe", "models", "engine", "process", "session"}
    | {"constraints", "adapters", "pictures", "speech"},
    "library": BASE
    | {"adapters", "checkpoint", "pictures", "tokenizer", "engine", "loading", "session"},
    "verify": BASE | {"checkpoint", "state", "ops", "models", "loading", "verify"},
    "cli": BASE
    | {"checkpoint", "tokenizer", "observe", "wire", "client", "server", "state", "ops", "models"}
    | {
        "engine",
        "loading",
        "process",
        "session",
        "verify",
        "adapters",
        "pictures",
        "speech",
        "heap",
        "cli",
    },
}
# Folders of ops/cpu -> those among them that each may import: compiling processes and running ones
# meet only in what they share.
CPU_MAY = {
    "shared": set(),
    "compiler": {"shared"},
    "kernels": {"shared", "compiler"},
    "runtime": {"shared"},
    "backend": {"shared", "runtime"},
}
CPU = "rbee_worker.ops.cpu"
# What the engine may import of `ops`: the vocabulary, and no backend.
VOCABULARY = {"ops", "ops.adapted", "ops.backend", "ops.batch", "ops.executable", "ops.sampling"}
TORCH_FREE = [
    "library",
    "process.main",
    "loading.load",
    "checkpoint.decoding",
    "ops.cpu.runtime.state",
    "ops.cpu.backend.bytes_read",
    "ops.cpu.backend.model",
    "ops.cpu.backend.cpu",
    "ops.backends",
    "ops.adapted",
    "adapters",
    "types",
    "model_info",
    "errors",
    "extras",
    "config",
    "params",
    "answer",
    "observe.narration",
    "observe.log",
    "checkpoint",
    "models",
    "tokenizer.load",
    "tokenizer.eos",
    "tokenizer.chat",
    "tokenizer.stream",
    "constraints.grammar",
    "constraints.matcher",
    "session.constraints",
    "engine.messages",
    "engine.scheduler",
    "engine.make",
    "session.client",
    "state.specs",
    "state.blocks",
    "cli.main",
    "cli.report",
    "cli.chat",
    "cli.prompt",
]


def part_of(module: str) -> str:
    """rbee_worker.session.client -> session; "" for a name of the package itself"""
    part = module.split(".")[1]
    return part if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").exists() else ""


def imported(file: Path) -> set[str]:
    """Parts of this package that a file imports at run time."""
    return {part_of(n) for n in names_imported(file) if n.startswith("rbee_worker.")}


def names_imported(file: Path) -> set[str]:
    """Modules, and names in modules, that a file imports at run time."""
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
        found |= set(names)
        inside = (ast.stmt, ast.ExceptHandler, ast.match_case)
        nodes += [n for n in ast.iter_child_nodes(node) if isinstance(n, inside)]
    return found


@pytest.mark.parametrize("part", MAY)
def test_a_part_imports_only_what_stands_below_it(part: str) -> None:
    files = [PACKAGE / f"{part}.py", *(PACKAGE / part).rglob("*.py")]
    wrong = {f.name: imported(f) - MAY[part] - {""} for f in files if f.exists()}
    assert not {name: extra for name, extra in wrong.items() if extra}
    assert any(f.exists() for f in files)


def test_every_part_has_a_wall() -> None:
    parts = {p.stem for p in PACKAGE.iterdir() if p.is_dir() or p.suffix == ".py"}
    assert {p for p in parts if not p.startswith("__")} == set(MAY)


def test_no_parts_import_each_other_in_a_circle() -> None:
    assert structure.circles(structure.arrows(PACKAGE.parent)) == []


@pytest.mark.parametrize("folder", CPU_MAY)
def test_a_folder_of_the_cpu_backend_imports_only_what_it_may(folder: str) -> None:
    files = list((PACKAGE / "ops" / "cpu" / folder).rglob("*.py"))
    assert files
    for file in files:
        inside = {n.split(".")[3] for n in names_imported(file) if n.startswith(f"{CPU}.")}
        assert inside <= CPU_MAY[folder] | {folder}, file


@pytest.mark.parametrize("folder", ["shared", "compiler", "kernels"])
def test_kernels_are_made_of_sources_that_their_names_follow(folder: str) -> None:
    """The kernel cache looks into ops/cpu only: code from elsewhere could change unseen."""
    for file in (PACKAGE / "ops" / "cpu" / folder).rglob("*.py"):
        names = {n for n in names_imported(file) if n.startswith("rbee_worker.")}
        outside = {part_of(n) for n in names if not n.startswith(f"{CPU}.")}
        assert outside <= {"errors"}, file


def test_the_engine_knows_the_vocabulary_of_backends_and_no_backend() -> None:
    names = {n for f in (PACKAGE / "engine").glob("*.py") for n in names_imported(f)}
    modules = {n.rpartition(".")[0].removeprefix("rbee_worker.") for n in names}
    assert {m for m in modules if m == "ops" or m.startswith("ops.")} <= VOCABULARY
    assert "torch" not in {n.split(".")[0] for n in names}


@pytest.mark.parametrize("module", TORCH_FREE)
def test_torch_is_not_imported_by(module: str) -> None:
    code = f"import sys, rbee_worker.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0


WITH_TORCH = {"ops/cuda", "ops/reference", "verify"}


def test_torch_is_named_nowhere_but_where_tensors_are_torchs() -> None:
    """Not even inside functions: what a worker on the cpu backend does never depends on torch."""
    for file in PACKAGE.rglob("*.py"):
        path = file.relative_to(PACKAGE).as_posix()
        if not any(path.startswith(f"{folder}/") for folder in WITH_TORCH):
            assert "torch" not in {n.split(".")[0] for n in names_imported(file)}, path


def test_the_direction_test_sees_an_upward_import(tmp_path: Path) -> None:
    file = tmp_path / "low.py"
    file.write_text("def f():\n    from rbee_worker.session.client import EngineClient\n")
    assert imported(file) == {"session"}


def test_observing_names_no_class_of_those_it_observes_even_for_types() -> None:
    """It has protocols of its own (`observe/subjects.py`): arrows go down, also in types."""
    for file in (PACKAGE / "observe").glob("*.py"):
        named = {
            part_of(m)
            for m in re.findall(r"(?:from|import) (rbee_worker\.[\w.]+)", file.read_text())
        }
        assert named <= MAY["observe"], file.name
