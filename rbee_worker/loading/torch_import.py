"""`import torch` without what only compilers and research use of it, for the engine's own process.

Nearly half of torch's import goes into modules for torch.compile, torch.export, tensors without
memory (device "meta"), training. `import_torch` leaves an empty module in the place of each. As
soon as any of them is used they are all loaded, in the order of a plain import, and torch is what
`import torch` makes. A use is:

- asking an empty module for an attribute, or importing one of its submodules;
- importing a module of `WAKING`, which rely on tables that the absent ones fill;
- making a tensor on device "meta", most of whose kernels are in Python;
- looking into `NAMESPACES` of operators, which absent modules define;
- asking torch for a module of its own that it does not have yet.

Only for versions that the tests have seen; any other is imported plainly.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

TRIED = ("2.13.0+cpu",)
# Nothing in torch's import looks into these, apart from the names it takes from them.
LATER: dict[str, tuple[str, ...]] = {
    "torch.utils.data": (),
    "torchgen.model": (),
    "torch.distributions": (),
    "torch.quantization": (),
    "torch.masked": (),
    "torch.export": (),
    "torch.func": ("vmap",),
    "torch._higher_order_ops": ("cond", "while_loop"),
    "torch._meta_registrations": (),
    "torch._decomp": (),
    "torch._prims": (),
    "torch._refs": (),
    "torch.compiler": (),
}
WAKING = (
    "torch._dispatch",
    "torch._dynamo",
    "torch._export",
    "torch._functorch",
    "torch._inductor",
    "torch._subclasses",
    "torch.fx.experimental.proxy_tensor",
    "torch.testing",
)
# Of torch.ops.
NAMESPACES = ("higher_order", "prims", "rngprims", "debugprims", "debug_mode_ops", "export")


def import_torch() -> None:
    """Import torch, in one piece where nothing else was tried. Raises ImportError."""
    if "torch" in sys.modules or _version() not in TRIED:
        importlib.import_module("torch")
        return
    absent = Absent()
    sys.meta_path.insert(0, absent)
    try:
        importlib.import_module("torch")
        absent.watch()
    except Exception:
        absent.load()
        importlib.import_module("torch")


def whole_torch() -> None:
    """Load what `import_torch` left out, if anything. Raises ImportError."""
    for finder in list(sys.meta_path):
        if isinstance(finder, Absent):
            finder.load()


def _version() -> str:
    """Of the torch that would be imported, "" if it does not say; nothing of it is executed."""
    spec = PathFinder.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    try:
        words = Path(spec.origin).with_name("version.py").read_text()
    except (OSError, UnicodeDecodeError):
        return ""
    found = re.search(r"^__version__ = '([^']*)'$", words, re.MULTILINE)
    return found[1] if found else ""


class Absent(MetaPathFinder, Loader):
    """The modules that are left out. Until `load` it makes them empty and sees every import."""

    def __init__(self) -> None:
        self._empty: dict[str, ModuleType] = {}
        self._was: list[tuple[ModuleType, str, Any]] = []  # owner, name, what was there if any
        self._meta: Any = None  # kernels that see a tensor made on "meta"
        self._over = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """An empty module; what a use of one brought along; else None: others will find it."""
        if self._over:
            return None
        if fullname in LATER:
            return self._found(fullname, path)
        waking = (*self._empty, *WAKING) if self._meta else tuple(self._empty)
        if not any(f"{fullname}.".startswith(f"{name}.") for name in waking):
            return None
        self.load()
        # Out of sys.modules for now, or the import system would execute it once more.
        there = sys.modules.pop(fullname, None)
        return None if there is None else ModuleSpec(fullname, _Given(there))

    def _found(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        real = PathFinder.find_spec(name, path)
        if real is None:
            return None
        spec = ModuleSpec(name, self, origin=real.origin)
        spec.submodule_search_locations = real.submodule_search_locations
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty one."""
        module = _Empty(spec.name)
        vars(module)["__file__"] = spec.origin  # `inspect` asks every module for it
        if spec.submodule_search_locations is not None:
            vars(module)["__path__"] = spec.submodule_search_locations
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty but for the names that torch's import takes from it."""
        name = module.__name__
        vars(module)["_real"] = partial(self._real, name)
        self._empty[name] = module
        for taken in LATER[name]:
            module.__dict__[taken] = self._function(name, taken)

    def _function(self, module: str, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(self._real(module), name)(*args, **kwargs)

        call.__name__ = call.__qualname__ = name
        call.__module__ = module
        return call

    def _real(self, name: str) -> ModuleType:
        self.load()
        return importlib.import_module(name)

    def watch(self) -> None:
        """Torch is imported: from here on, see what needs the absent ones without naming them."""
        for name in LATER:
            importlib.import_module(name)  # those that only others of them import
        torch = sys.modules["torch"]
        self._meta = torch.library.Library("aten", "IMPL", "Meta")
        for operator in (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_strided.default):
            self._meta.impl(operator, self._maker(operator))
        for name in NAMESPACES:
            space = _Empty(f"torch.ops.{name}")
            vars(space)["_real"] = partial(self._space, name)
            self._put(torch.ops, name, space)
        self._put(torch, "__getattr__", partial(self._missing, vars(torch)["__getattr__"]))

    def _put(self, owner: ModuleType, name: str, value: Any) -> None:
        self._was.append((owner, name, vars(owner).get(name)))
        vars(owner)[name] = value

    def _maker(self, operator: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any, **kwargs: Any) -> Any:
            self.load()
            return operator(*args, **kwargs)  # torch's own kernel, which is back

        return make

    def _space(self, name: str) -> Any:
        self.load()
        return getattr(sys.modules["torch"].ops, name)

    def _missing(self, otherwise: Callable[[str], Any], name: str) -> Any:
        """What torch does not have: one of its modules, which an absent one would have brought?"""
        torch = sys.modules["torch"]
        if PathFinder.find_spec(f"torch.{name}", torch.__path__) is None:
            return otherwise(name)
        self.load()
        return getattr(torch, name)

    def withdraw(self) -> None:
        """Take back everything that is not torch's own."""
        self._over = True
        sys.meta_path = [finder for finder in sys.meta_path if finder is not self]
        if self._meta is not None:
            self._meta._destroy()
        for owner, name, was in self._was:
            if was is None:
                del vars(owner)[name]
            else:
                vars(owner)[name] = was
        for name, empty in self._empty.items():
            parent, _, leaf = name.rpartition(".")
            if sys.modules.get(name) is empty:
                del sys.modules[name]
            if vars(sys.modules.get(parent, empty)).get(leaf) is empty:
                delattr(sys.modules[parent], leaf)

    def load(self) -> None:
        """Load all that is absent; nothing the second time. Raises ImportError."""
        if self._over:
            return
        self.withdraw()
        for name in [name for name in LATER if name in self._empty]:
            importlib.import_module(name)
        torch = vars(sys.modules["torch"])
        for name, empty in self._empty.items():
            for taken in LATER[name]:
                if torch.get(taken) is vars(empty)[taken]:
                    torch[taken] = getattr(sys.modules[name], taken)


class _Empty(ModuleType):
    """Asked for anything, it asks what `_real` returns; until it has that, it is just empty."""

    def __getattr__(self, name: str) -> Any:
        if "_real" not in vars(self):
            raise AttributeError(name)
        return getattr(vars(self)["_real"](), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if "_real" not in vars(self) or name.startswith("__"):  # the import system's own
            super().__setattr__(name, value)
        else:
            setattr(vars(self)["_real"](), name, value)

    def __dir__(self) -> list[str]:
        return dir(vars(self)["_real"]())


class _Given(Loader):
    """Hands over a module that is there already."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def exec_module(self, module: ModuleType) -> None:
        """As a module may, put another in one's own place."""
        sys.modules[module.__name__] = self._module
