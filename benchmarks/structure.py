"""How the package hangs together: files and lines of each part, and who imports whom at run time.

    python -m benchmarks.structure [ROOT of a checkout]

Parts are the modules and folders of `rbee_worker`; `ops` and `ops/cpu` are split into theirs.
Imports under `if TYPE_CHECKING` do not count. The exit code is 1 where parts import each other in a
circle.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = "rbee_worker"
SPLIT = ("ops", "ops.cpu")  # their folders are parts of their own


def part_of(module: str) -> str:
    """rbee_worker.session.client -> session; rbee_worker.ops.cpu.runtime.team -> ops.cpu.runtime"""
    words = module.split(".")[1:]
    depth = 1
    while ".".join(words[:depth]) in SPLIT and len(words) > depth + 1:
        depth += 1
    return ".".join(words[:depth])


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package under a checkout, by its dotted name."""
    found = {}
    for file in sorted((root / PACKAGE).rglob("*.py")):
        words = file.relative_to(root).with_suffix("").parts
        found[".".join(w for w in words if w != "__init__")] = file
    return found


def imported(file: Path) -> Iterator[str]:
    """Names that a file imports at run time, functions included."""
    nodes = list(ast.parse(file.read_text()).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            nodes += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        nodes += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]


def arrows(root: Path) -> dict[str, set[str]]:
    """Part -> the parts it imports."""
    known = modules(root)
    found: dict[str, set[str]] = {}
    for name, file in known.items():
        part = part_of(name) or PACKAGE
        found.setdefault(part, set())
        for target in imported(file):
            while target not in known and "." in target:
                target = target.rpartition(".")[0]  # a function or class of a module
            if target in known and target != PACKAGE:
                found[part].add(part_of(target))
    return {part: targets - {part} for part, targets in found.items()}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of parts that reach each other (Tarjan 1972), each in alphabetical order."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(part: str) -> None:
        index[part] = low[part] = len(index)
        stack.append(part)
        for target in sorted(graph.get(part, ())):
            if target not in index:
                visit(target)
                low[part] = min(low[part], low[target])
            elif target in stack:
                low[part] = min(low[part], index[target])
        if low[part] == index[part]:
            at = stack.index(part)
            found.append(sorted(stack[at:]))
            del stack[at:]

    for part in sorted(graph):
        if part not in index:
            visit(part)
    return [group for group in found if len(group) > 1]


def table(root: Path) -> str:
    """Lines for a person."""
    sizes: dict[str, list[int]] = {}
    for name, file in modules(root).items():
        size = sizes.setdefault(part_of(name) or PACKAGE, [0, 0])
        size[0] += 1
        size[1] += len(file.read_text().splitlines())
    graph = arrows(root)
    lines = [f"{'part':<18}{'files':>6}{'lines':>8}  imports"]
    for part in sorted(sizes):
        files, count = sizes[part]
        lines.append(f"{part:<18}{files:>6}{count:>8}  {' '.join(sorted(graph[part])) or '-'}")
    files, count = (sum(size[i] for size in sizes.values()) for i in (0, 1))
    arrow_count = sum(map(len, graph.values()))
    lines.append(f"{'all':<18}{files:>6}{count:>8}  {len(graph)} parts, {arrow_count} arrows")
    lines += [f"circle: {' '.join(group)}" for group in circles(graph)] or ["no circles"]
    return "\n".join(lines)


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    sys.stdout.write(table(where) + "\n")
    sys.exit(bool(circles(arrows(where))))
