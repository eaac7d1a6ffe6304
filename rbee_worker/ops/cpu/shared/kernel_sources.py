"""Which sources a kernel is made of: its module, the compiler, and everything they import.

Reading the imports from the sources with `ast` would be one of the slowest parts of a start, so the
result is kept in a file beside the kernels, under a name that changes with any source.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from rbee_worker.errors import ModelError

PACKAGE = "rbee_worker.ops.cpu"
ROOT = Path(__file__).parents[1]
COMPILED = ("shared", "compiler", "kernels")  # folders that compiling processes import from
COMPILER = "compiler.compile"

Sources = Mapping[str, bytes]  # module of the package -> its text
Imports = Mapping[str, list[str]]  # module -> names that it imports from the package


def kernel_module(name: str) -> str:
    """The module of this package that kernel `name`, "module.variant", is built by.

    Raises ModelError where there is none.
    """
    module = _kernel_modules().get(name.partition(".")[0])
    if module is None:
        raise ModelError(
            f"there is no CPU kernel {name}.", fix="report it: a backend asked for it by mistake."
        )
    return module


def is_kernel(name: str) -> bool:
    """Whether there is a module that builds kernels of this name."""
    return name.partition(".")[0] in _kernel_modules()


@functools.cache
def _kernel_modules() -> dict[str, str]:
    """The modules in `kernels/` and its folders, by the last part of their names."""
    found = [module for module in sources() if module.startswith("kernels.")]
    modules = {module.rpartition(".")[2]: module for module in found}
    assert len(modules) == len(found), "two kernel modules have one name"
    return modules


@functools.cache
def sources() -> Sources:
    """Every module that kernels may be made of."""
    files = (file for folder in COMPILED for file in (ROOT / folder).rglob("[a-z]*.py"))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts): f.read_bytes() for f in files}


def source_digest(name: str, where: Path | None = None) -> str:
    """A digest of every source that kernel `name` is made of. where: see `imports`."""
    texts = sources()
    digest = hashlib.sha256()
    for module in sorted(reached((kernel_module(name), COMPILER), imports(where), texts)):
        digest.update(module.encode() + b"\0" + texts[module])
    return digest.hexdigest()[:16]


def reached(begin: tuple[str, ...], graph: Imports, texts: Sources) -> set[str]:
    """These modules and those that they import, directly or not."""
    found, todo = set[str](), list(begin)
    while todo:
        module = todo.pop()
        if module in texts and module not in found:
            found.add(module)
            todo += graph[module]
    return found


@functools.cache
def imports(where: Path | None = None) -> Imports:
    """The imports of every module; kept in the folder `where` if it exists and can be written."""
    texts = sources()
    digest = hashlib.sha256()
    for module in sorted(texts):
        digest.update(module.encode() + b"\0" + texts[module])
    kept = None if where is None else where / f"imports-{digest.hexdigest()[:16]}.json"
    if kept is not None:
        with suppress(OSError, msgspec.DecodeError):
            graph = msgspec.json.decode(kept.read_bytes(), type=dict[str, list[str]])
            if graph.keys() == texts.keys():
                return graph
    graph = {module: imports_of(module, text) for module, text in texts.items()}
    if kept is not None:
        temporary = kept.with_name(f"{kept.name}.{os.getpid()}.part")
        with suppress(OSError):
            temporary.write_text(json.dumps(graph))
            temporary.replace(kept)
    return graph


def imports_of(module: str, text: bytes) -> list[str]:
    """Names that a module imports from this package; some are functions, not modules."""
    import ast  # not needed where they are kept

    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = node.module or ""
            if node.level:  # relative
                above = f"{PACKAGE}.{module}".rsplit(".", node.level)[0]
                parent = f"{above}.{parent}".rstrip(".")
            found += [parent, *(f"{parent}.{alias.name}" for alias in node.names)]
    inside = f"{PACKAGE}."
    return [name.removeprefix(inside) for name in found if name.startswith(inside)]
